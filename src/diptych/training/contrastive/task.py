"""What the contrastive recipe trains: model, data and objective put together as the training loop wants them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, did_you_mean
from diptych.evaluation.evaluators import RetrievalEvaluator
from diptych.models import dual_encoder as dual
from diptych.models.dual_encoder import DualEncoder
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress
from diptych.training import lora as adapters
from diptych.training.batches import Epochs, LivePictures, LiveTexts, Side, stored_pictures, stored_texts
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.model_card import model_card
from diptych.training.objectives import OBJECTIVES, cached_backward
from diptych.training.run_folder import Run
from diptych.training.trainer import Task

MAX_SCALE = 100.0  # CLIP clips its logit scale there (Radford et al. 2021, section 2.5)


class Scale(nn.Module):
    """The learnable logit scale (kept as its logarithm, as CLIP does) and the sigmoid loss's bias."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self) -> Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)


def contrastive_task(recipe: ContrastiveRecipe, train_pairs: Pairs, val_pairs: Pairs, progress: Progress) -> Task:
    """Build or load the model, and join it to its data and objective."""
    torch.manual_seed(recipe.seed)
    model = _start(recipe, train_pairs)
    sizes = {"train": len(train_pairs), "val": len(val_pairs)}
    groups = trainable_groups(recipe, model)
    sigmoid = recipe.objective == "sigmoid"
    fresh = recipe.start is None
    scale = Scale(
        recipe.logit_scale or (10.0 if sigmoid and fresh else model.logit_scale),
        -10.0 if sigmoid and fresh else model.logit_bias,
    ).to(model.device)
    scale.bias.requires_grad_(sigmoid)
    groups.append({"params": [p for p in scale.parameters() if p.requires_grad], "lr": recipe.lr_head})

    epochs = Epochs(train_pairs, recipe.batch_size, recipe.seed)
    images, texts = _sides(recipe, model, epochs, val_pairs, progress)
    evaluator = RetrievalEvaluator(val_pairs)

    def load(batch: tuple[int, np.ndarray, np.ndarray]) -> tuple[Any, Any, Tensor, Tensor]:
        epoch, rows, captions = batch
        chunk = recipe.chunk_size or len(rows)
        parts = [slice(start, start + chunk) for start in range(0, len(rows), chunk)]
        return (
            [images.load(epoch, rows[part], captions[part]) for part in parts],
            [texts.load(epoch, rows[part], captions[part]) for part in parts],
            torch.from_numpy(rows),
            epochs.caption_ids(captions),
        )

    def backward(batch: tuple[Any, Any, Tensor, Tensor]) -> Tensor:
        image_parts, text_parts, *ids = batch
        image_ids, caption_ids = (value.to(model.device) for value in ids)
        smoothing = {} if sigmoid else {"label_smoothing": recipe.label_smoothing}

        def loss(image_vectors: Tensor, text_vectors: Tensor) -> Tensor:
            known: dict[str, Any] = {"image_ids": image_ids, "caption_ids": caption_ids, **smoothing}
            objective = OBJECTIVES[recipe.objective]
            return objective(image_vectors, text_vectors, logit_scale=scale(), logit_bias=scale.bias, **known)

        return _backward(images, texts, image_parts, text_parts, loss, autocast(recipe.precision, model.device))

    def validate() -> dict[str, float]:
        return evaluator(images.validation(), texts.validation()).to_dict()

    def save(scores: dict[str, float]) -> None:
        model.logit_scale, model.logit_bias = float(scale().detach()), float(scale.bias.detach())
        card = {"recipe": asdict(recipe), "pictures": sizes, "validation": scores}
        with Run(Path(recipe.out), recipe).publishing() as fresh:
            adapters.merged(model).save(fresh, card, model_card(recipe, sizes, scores))

    return Task(
        module=nn.ModuleDict({"model": model.model, "scale": scale}),
        groups=groups,
        steps_per_epoch=epochs.steps,
        batches=lambda epoch, first: prefetch(epochs(epoch, first), load, recipe.workers),
        backward=backward,
        validate=validate,
        save=save,
        set_mode=partial(_set_mode, recipe, model),
    )


def _start(recipe: ContrastiveRecipe, pairs: Pairs) -> DualEncoder:
    if recipe.start:
        return dual.load(recipe.start, recipe.device)
    return dual.build(
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
        captions=None if recipe.pretrained else pairs.flat_captions()[0],
        device=recipe.device,
    )


def _backward(
    images: Side, texts: Side, image_parts: list, text_parts: list, loss: Callable[[Tensor, Tensor], Tensor], precision
) -> Tensor:
    """Add the gradients of one batch, chunk by chunk when it has several."""

    def embed(side: Side, part: Any) -> Tensor:
        with precision():
            return side.embed(part)

    if len(image_parts) > 1:
        image_chunks = [partial(embed, images, part) for part in image_parts]
        text_chunks = [partial(embed, texts, part) for part in text_parts]
        return cached_backward(image_chunks, text_chunks, loss)
    value = loss(embed(images, image_parts[0]), embed(texts, text_parts[0]))
    value.backward()
    return value.detach()


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """A maker of contexts in which towers compute: bf16 where asked, or by `auto` on CUDA that has it."""
    bf16 = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=bf16)


def trainable_groups(recipe: ContrastiveRecipe, model: DualEncoder) -> list[dict[str, Any]]:
    """Freeze what the recipe freezes, and group the rest by learning rate.

    Raises:
        ConfigError: an entry of `freeze` matches no weight.
    """
    if recipe.lora_rank:
        adapters.add_lora(model, recipe.lora_rank, [m for m in dual.MODALITIES if m not in recipe.freeze])
    groups = []
    for modality, rate in (("image", recipe.lr_image), ("text", recipe.lr_text)):
        weights = model.tower_parameters(modality)
        mine = [prefix for prefix in recipe.freeze if prefix.split(".")[0] == modality]
        for prefix in mine:
            if not any(_begins(name, prefix) for name in weights):
                tops = {".".join(name.split(".")[:3]) for name in weights}
                raise ConfigError(f"freeze: no weight's name begins '{prefix}'; {did_you_mean(prefix, tops)}")
        for name, weight in weights.items():
            frozen = any(_begins(name, prefix) for prefix in mine)
            weight.requires_grad_(("lora_" in name if recipe.lora_rank else True) and not frozen)
        groups.append({"params": [weight for weight in weights.values() if weight.requires_grad], "lr": rate})
    if unknown := [name for name in recipe.freeze if name.split(".")[0] not in dual.MODALITIES]:
        raise ConfigError(f"freeze: '{unknown[0]}' names no tower; {did_you_mean(unknown[0], dual.MODALITIES)}")
    in_towers = {id(p) for modality in dual.MODALITIES for p in model.tower_parameters(modality).values()}
    heads = [p for modality in dual.MODALITIES for module in model.head(modality) for p in module.parameters()]
    groups.append({"params": heads, "lr": recipe.lr_head})
    in_heads = {id(p) for p in heads}
    for weight in model.model.parameters():  # a pretrained CLIP's own scale: ours takes its place
        if id(weight) not in in_towers | in_heads:
            weight.requires_grad_(False)
    return groups


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _sides(
    recipe: ContrastiveRecipe, model: DualEncoder, epochs: Epochs, val: Pairs, progress: Progress
) -> tuple[Side, Side]:
    """Stored features for a frozen tower that has a head of its own, live ones else."""
    stored = {modality: modality in recipe.freeze and bool(model.head(modality)) for modality in dual.MODALITIES}
    images: Side = (
        stored_pictures(
            model, epochs.pairs, val, augment=recipe.augment, views=recipe.views, seed=recipe.seed, progress=progress
        )
        if stored["image"]
        else LivePictures(model, epochs.pairs, val, recipe.augment, recipe.seed)
    )
    texts: Side = stored_texts(model, epochs, val, progress) if stored["text"] else LiveTexts(model, epochs, val)
    return images, texts


def _set_mode(recipe: ContrastiveRecipe, model: DualEncoder, training: bool) -> None:
    """Training mode for what learns: a frozen tower keeps its dropout off, and BatchNorm its statistics."""
    model.model.train(training)
    for modality in dual.MODALITIES:
        for module in model.tower(modality):
            if modality in recipe.freeze:
                module.eval()
    moves = recipe.batch_norm if recipe.batch_norm is not None else not (recipe.pretrained or recipe.start)
    if not moves:
        for layer in model.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
