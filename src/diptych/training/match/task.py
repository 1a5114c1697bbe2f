"""The training task of the matching recipe: a head, its batches and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from diptych.matching.heads import CrossHead, Head, PairHead
from diptych.matching.negatives import Matches, hard_negatives
from diptych.models.checkpoints import HeadSettings
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates
from diptych.runtime.background import prefetch
from diptych.training.batches import PairBatch
from diptych.training.checkpoint import BEST, save_weights
from diptych.training.encoded_images import state_shapes
from diptych.training.match.config import MatchRecipe
from diptych.training.match.data import EncodedPairs, HardNegativeSampler
from diptych.training.match.validation import MatchValidator
from diptych.training.objectives import matching_loss
from diptych.training.trainer import Task


@dataclass
class Batch:
    """A loaded batch: images, texts, and the keyword arguments of the loss, (batch,) each."""

    images: HiddenStates
    texts: HiddenStates
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        targets = {name: value.to(device) for name, value in self.targets.items()}
        return Batch(self.images.to(device), self.texts.to(device), targets)


@dataclass
class _Source:
    """The batches of one kind of training data, and their loss."""

    steps: int
    batches: Callable[[int, int], Iterable[Batch]]
    loss: Callable[[Batch], Tensor]


def new_head(recipe: MatchRecipe, name: str, encoder: DualEncoder) -> tuple[nn.Module, HeadSettings]:
    """A new head, and the arguments that rebuild it."""
    if name == "pair":
        pair = PairHead(encoder.dim, recipe.hidden, recipe.dropout)
        return pair, {"dim": encoder.dim, "hidden": recipe.hidden, "dropout": recipe.dropout}
    shapes = state_shapes(encoder)
    image_width, text_width = shapes["image"][1], shapes["text"][1]
    cross = CrossHead(image_width, text_width, recipe.dim, recipe.dropout)
    widths = {"image_width": image_width, "text_width": text_width}
    return cross, {**widths, "dim": recipe.dim, "dropout": recipe.dropout}


def match_task(
    recipe: MatchRecipe,
    encoder: DualEncoder,
    head: nn.Module,
    train: EncodedPairs,
    validator: MatchValidator,
    folder: Path,
) -> Task[Batch]:
    """The task that trains `head` on encoded pairs; its best weights are written into `folder`."""
    head.to(encoder.device)
    source = (_captions if train.labels is None else _labelled)(recipe, cast(Head, head), train)

    def backward(batch: Batch) -> Tensor:
        loss = source.loss(batch.to(encoder.device))
        loss.backward()
        return loss.detach()

    def set_mode(training: bool) -> None:
        head.train(training)

    return Task(
        module=nn.ModuleDict({"head": head}),
        groups=[{"params": list(head.parameters()), "lr": recipe.lr}],
        steps_per_epoch=source.steps,
        batches=source.batches,
        backward=backward,
        validate=lambda: validator(head),
        save=lambda _scores: save_weights(head, folder / BEST),
        set_mode=set_mode,
        metric="score",
    )


def _captions(recipe: MatchRecipe, head: Head, data: EncodedPairs) -> _Source:
    """Images with their captions; the other pairs of a batch are negatives, some of them hard."""
    matches = Matches(data.pairs)
    candidates = np.empty((len(data.texts), 0), np.int64)
    if recipe.hard:
        pool = max(8, round(recipe.hard_share * len(data.pairs)))
        candidates = hard_negatives(
            matches, data.images.embeddings, data.text_embeddings, pool, share=recipe.hard_share, seed=recipe.seed
        )
    sampler = HardNegativeSampler(data.pairs, recipe.batch_size, recipe.hard, candidates, recipe.seed)

    def load(batch: PairBatch) -> Batch:
        epoch, rows, captions = batch
        ids = {"image_ids": torch.from_numpy(rows), "caption_ids": torch.from_numpy(matches.text_ids[captions])}
        return Batch(data.images.take(rows, epoch), data.take_texts(captions), ids)

    def loss(batch: Batch) -> Tensor:
        logits = head.grid(head.encode("image", batch.images), head.encode("text", batch.texts))  # (batch, batch)
        return matching_loss(logits, **batch.targets, contrast=recipe.contrast, binary=recipe.binary)

    return _Source(sampler.steps, lambda epoch, first: prefetch(sampler(epoch, first), load, recipe.workers), loss)


def _labelled(recipe: MatchRecipe, head: Head, data: EncodedPairs) -> _Source:
    """Labelled pairs; both labels have the same total weight."""
    labels = np.asarray(data.labels, np.float32)
    weights = np.where(labels, 0.5 / labels.mean(), 0.5 / (1 - labels.mean())).astype(np.float32)
    size = min(recipe.batch_size, len(labels))
    steps = len(labels) // size

    def sampler(epoch: int, first: int) -> Iterable[tuple[int, NDArray[np.int64]]]:
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(labels))
        return ((epoch, order[step * size : (step + 1) * size]) for step in range(first, steps))

    def load(batch: tuple[int, NDArray[np.int64]]) -> Batch:
        epoch, chosen = batch
        targets = {"target": torch.from_numpy(labels[chosen]), "weight": torch.from_numpy(weights[chosen])}
        return Batch(data.images.take(data.rows[chosen], epoch), data.take_texts(chosen), targets)

    def loss(batch: Batch) -> Tensor:
        logits = head.pairs(head.encode("image", batch.images), head.encode("text", batch.texts))  # (batch,)
        target, weight = batch.targets["target"], batch.targets["weight"]
        return functional.binary_cross_entropy_with_logits(logits, target, weight)

    return _Source(steps, lambda epoch, first: prefetch(sampler(epoch, first), load, recipe.workers), loss)
