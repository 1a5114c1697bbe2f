"""The training task of the prompt recipe: prompter, batches, loss and validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from diptych.data.pairs import Pairs, Row
from diptych.errors import ModelError
from diptych.evaluation.metrics.similarity import paired_cosines, similarity_metrics
from diptych.evaluation.prompts import mean_embeddings
from diptych.images.augment import augmentation, sides_key
from diptych.models import dual_encoder, towers
from diptych.models.cosine import normalize
from diptych.models.heads import EMBEDDING, Features
from diptych.prompting.features import ImageFeatures
from diptych.prompting.prompter import Prompter, PromptHead
from diptych.prompting.text_space import load_text_space
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress
from diptych.training.batches import PairBatch, PairSampler, load_view
from diptych.training.checkpoint import BEST, load_weights, save_weights
from diptych.training.objectives import cosine_loss, info_nce
from diptych.training.prompt.config import PromptRecipe
from diptych.training.results import BASELINE
from diptych.training.trainer import ParameterGroup, Task, freeze_batch_norm

_SAMPLED = 1024  # images from which the statistics of a live tower's features are computed
_BATCH = 32


def new_prompter(recipe: PromptRecipe) -> Prompter:
    """A prompter with a new head between the image features and the text encoder.

    Raises:
        ModelError: a tower, the dual encoder or the text encoder cannot be loaded.
    """
    torch.manual_seed(recipe.seed)
    if recipe.model:
        features = ImageFeatures.of_encoder(dual_encoder.load(recipe.model, recipe.device))
    else:
        features = ImageFeatures.of_tower(_tower(recipe), recipe.device)
    space = load_text_space(recipe.text_encoder, recipe.device)
    head = PromptHead(features.width, space.dim, hidden=recipe.hidden, dropout=recipe.dropout)
    settings = {"width": features.width, "dim": space.dim, "hidden": recipe.hidden, "dropout": recipe.dropout}
    return Prompter(features, head, name=recipe.out, space=lambda: space, settings=settings)


def _tower(recipe: PromptRecipe) -> list[Module]:
    try:
        return towers.image_tower(
            recipe.image_tower,
            pretrained=recipe.pretrained,
            image_size=recipe.image_size,
            arguments=recipe.image_arguments or None,
        )
    except ModelError as error:
        raise ModelError(f"{error}. Without a network, set `model` to mini, the bundled model") from error


def prompt_task(recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> Task[Batch]:
    """The task that trains a prompter; its best weights are written into `recipe.out`."""
    return _PromptTraining(recipe, prompter, train, val, progress).task()


def load_best(prompter: Prompter, recipe: PromptRecipe) -> None:
    """Load the best weights of a run into the prompter.

    Raises:
        ConfigError: the weights are missing or damaged.
    """
    load_weights(_trained_module(prompter, recipe), Path(recipe.out) / BEST)
    prompter.head.eval()
    prompter.image_features.model.eval()


def _trained_module(prompter: Prompter, recipe: PromptRecipe) -> nn.ModuleDict:
    """The head and, if the recipe trains it, the image tower."""
    tower = {"tower": prompter.image_features.model} if recipe.train_tower else {}
    return nn.ModuleDict({"head": prompter.head, **tower})


@dataclass
class Batch:
    """A loaded batch."""

    inputs: Features  # of the image source
    targets: Tensor  # (batch, dim) embeddings of the prompts
    image_ids: Tensor  # (batch,)
    caption_ids: Tensor | None  # (batch,); None if the targets are means of several prompts


class _PromptTraining:
    def __init__(self, recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> None:
        self.recipe, self.prompter, self.device = recipe, prompter, prompter.image_features.device
        self.sampler = PairSampler(train, recipe.batch_size, recipe.seed)
        embed = partial(prompter.space.encode_cached, progress=progress)
        self.prompts = embed(self.sampler.captions, label="embedding the prompts")
        val_prompts, self.val_rows = val.flat_captions()
        self.val_prompts = embed(val_prompts, label="embedding the validation prompts")
        means = mean_embeddings(self.prompts, train.flat_captions()[1], len(train))
        self.means = normalize(means).astype(np.float32)  # (images, dim)
        constant = np.broadcast_to(self.prompts.mean(0), (len(val), self.prompts.shape[1]))
        self.baseline = float(paired_cosines(constant, self.val_prompts, self.val_rows).mean())
        source: type[_LiveImages] | type[_StoredImages] = _LiveImages if recipe.train_tower else _StoredImages
        self.images: _ImageSource = source(recipe, prompter, train, val, progress)
        self.module = _trained_module(prompter, recipe)

    def task(self) -> Task[Batch]:
        """The task of the trainer."""
        recipe, prompter = self.recipe, self.prompter
        groups: list[ParameterGroup] = [{"params": list(prompter.head.parameters()), "lr": recipe.lr}]
        if recipe.train_tower:
            groups.append({"params": list(prompter.image_features.model.parameters()), "lr": recipe.lr_tower})
        return Task(
            module=self.module,
            groups=groups,
            steps_per_epoch=self.sampler.steps,
            batches=lambda epoch, first: prefetch(self.sampler(epoch, first), self.load, recipe.workers),
            backward=self.backward,
            validate=self.validate,
            save=lambda _scores: save_weights(self.module, Path(recipe.out) / BEST),
            set_mode=partial(_set_mode, recipe, prompter),
            metric="cosine",
        )

    def load(self, batch: PairBatch) -> Batch:
        epoch, rows, captions = batch
        inputs, image_ids = self.images.load(epoch, rows), torch.from_numpy(rows)
        if self.recipe.target == "mean":
            return Batch(inputs, torch.from_numpy(self.means[rows]), image_ids, None)
        caption_ids = self.sampler.caption_ids(captions)
        return Batch(inputs, torch.from_numpy(self.prompts[captions]), image_ids, caption_ids)

    def backward(self, batch: Batch) -> Tensor:
        targets = batch.targets.to(self.device)
        predicted = self.prompter.head(self.images.features(batch.inputs))  # (batch, dim)
        loss = cosine_loss(predicted, targets)
        if self.recipe.contrast:
            contrast = info_nce(
                predicted,
                targets,
                logit_scale=self.recipe.contrast_scale,
                image_ids=batch.image_ids.to(self.device),
                caption_ids=None if batch.caption_ids is None else batch.caption_ids.to(self.device),
            )
            loss = loss + self.recipe.contrast * contrast
        loss.backward()
        return loss.detach()

    def validate(self) -> dict[str, float]:
        """The mean cosine of predicted and true prompts, that of the baseline, both in percent, and median ranks."""
        predicted = self.prompter.predict_features(self.images.validation())
        scores = similarity_metrics(predicted, self.val_prompts, self.val_rows)
        return {
            "cosine": 100 * scores.mean,
            BASELINE: 100 * self.baseline,
            "median_rank": scores.median_rank,
            "first_rank": scores.median_first_rank,
        }


class _ImageSource(Protocol):
    """The image features of training and validation."""

    def load(self, epoch: int, rows: NDArray[np.int64], /) -> Features:
        """The inputs of `features` for a batch; called in threads."""

    def features(self, inputs: Features, /) -> Tensor:
        """(batch, width) image features."""

    def validation(self) -> NDArray[np.floating]:
        """(images, width) image features of the validation split."""


class _StoredImages:
    """Image features of a frozen tower, computed once and stored, in one or several views."""

    def __init__(self, recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, progress: Progress) -> None:
        def augmented(row: Row, number: int) -> Image.Image:
            size = prompter.image_features.image_size or 224
            return load_view(row, augmentation(recipe.augment), size, recipe.seed, number)

        views = recipe.views if recipe.augment != "none" else 1
        stored = prompter.image_features.cached
        sides = sides_key(train.values("captions"))  # images whose captions mention a side are not mirrored
        name = f"{recipe.augment}-{recipe.seed}-{sides}" if views > 1 else "clean"
        self.train = stored(train, views=views, view=augmented, name=name, progress=progress)
        self.val = stored(val, progress=progress)[:, 0]
        self.device = prompter.image_features.device
        prompter.head.fit(self.train[:, 0])

    def load(self, epoch: int, rows: NDArray[np.int64]) -> Features:
        """The stored features of a batch, in the view of the epoch."""
        return {EMBEDDING: torch.from_numpy(self.train[rows, epoch % self.train.shape[1]].astype(np.float32))}

    def features(self, inputs: Features) -> Tensor:
        """(batch, width) image features."""
        return inputs[EMBEDDING].to(self.device)

    def validation(self) -> NDArray[np.floating]:
        """(images, width) image features of the validation split."""
        return self.val


class _LiveImages:
    """Images that are decoded, augmented and encoded at every step."""

    def __init__(self, recipe: PromptRecipe, prompter: Prompter, train: Pairs, val: Pairs, _progress: Progress) -> None:
        self.recipe, self.encoder, self.train, self.val = recipe, prompter.image_features, train, val
        self.augment, self.size = augmentation(recipe.augment), prompter.image_features.image_size or 224
        sample = range(0, len(train), max(1, len(train) // _SAMPLED))
        prompter.head.fit(self._encoded(train.select(sample)))

    def load(self, epoch: int, rows: NDArray[np.int64]) -> Features:
        """The augmented images of a batch, preprocessed."""
        return self.encoder.preprocess(
            [load_view(self.train[int(row)], self.augment, self.size, self.recipe.seed, epoch) for row in rows]
        )

    def features(self, inputs: Features) -> Tensor:
        """(batch, width) image features."""
        return self.encoder.forward(inputs)

    def validation(self) -> NDArray[np.floating]:
        """(images, width) image features of the validation split."""
        return self._encoded(self.val)

    def _encoded(self, pairs: Pairs) -> NDArray[np.float32]:
        batches = (pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH))
        images = ([load_view(row, None, self.size, 0, 0) for row in batch] for batch in batches)
        return np.concatenate([self.encoder.encode(batch, _BATCH) for batch in images])


def _set_mode(recipe: PromptRecipe, prompter: Prompter, training: bool) -> None:
    """Switch training mode; the BatchNorm statistics of a pretrained tower are not updated."""
    prompter.head.train(training)
    prompter.image_features.model.train(training and recipe.train_tower)
    if recipe.pretrained:
        freeze_batch_norm(prompter.image_features.model)
