"""What the matching recipe trains: a head, batches and the loss, put together as the training loop wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import DataError
from diptych.matching.heads import HEADS
from diptych.matching.negatives import Matches, hard_negatives
from diptych.models.dual_encoder import DualEncoder
from diptych.runtime.atomic import new_file
from diptych.runtime.background import prefetch
from diptych.training.match.config import MatchRecipe
from diptych.training.match.data import HardBatches, Part, widths
from diptych.training.match.validation import Check
from diptych.training.objectives import matching_loss
from diptych.training.trainer import Task

BEST = "best.safetensors"


def new_head(recipe: MatchRecipe, name: str, encoder: DualEncoder) -> tuple[nn.Module, dict[str, Any]]:
    """A head that is yet to be trained, and the arguments that make another of its kind."""
    settings: dict[str, Any] = {"dropout": recipe.dropout}
    if name == "pair":
        settings |= {"dim": encoder.dim, "hidden": recipe.hidden}
    else:
        known = widths(encoder)
        settings |= {"image_width": known["image"][1], "text_width": known["text"][1], "dim": recipe.dim}
    return HEADS[name](**settings), settings


def match_task(
    recipe: MatchRecipe, encoder: DualEncoder, head: nn.Module, train: Part, check: Check, folder: Path
) -> Task:
    """Train `head` on what the frozen towers made of the training part; its best state goes to `folder`."""
    head.to(encoder.device)
    batches, backward = (_labelled if train.labels is not None else _captions)(recipe, encoder, head, train)

    def save(scores: dict[str, float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / BEST) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, temporary)

    def set_mode(training: bool) -> None:
        head.train(training)

    return Task(
        module=nn.ModuleDict({"head": head}),
        groups=[{"params": list(head.parameters()), "lr": recipe.lr}],
        steps_per_epoch=batches[0],
        batches=batches[1],
        backward=backward,
        validate=lambda: check(head),
        save=save,
        set_mode=set_mode,
    )


Steps = tuple[int, Callable[[int, int], Iterable[Any]]]


def _captions(
    recipe: MatchRecipe, encoder: DualEncoder, head: Any, part: Part
) -> tuple[Steps, Callable[[Any], Tensor]]:
    """Captions with their pictures; every other pair of a batch is a negative, hard ones among them."""
    matches = Matches(part.pairs)
    candidates = np.empty((len(part.texts), 0), np.int64)
    if recipe.hard:
        pool = max(8, round(recipe.hard_share * len(part.pairs)))
        candidates = hard_negatives(
            matches, part.image_vectors, part.text_vectors, pool, share=recipe.hard_share, seed=recipe.seed
        )
    order = HardBatches(part, recipe.batch_size, recipe.hard, candidates, recipe.seed)

    def load(batch: tuple[int, np.ndarray, np.ndarray]) -> tuple[Any, Any, Tensor, Tensor]:
        epoch, rows, captions = batch
        ids = torch.from_numpy(rows), torch.from_numpy(matches.text_ids[captions])
        return part.images(rows, epoch), part.captions(captions), *ids

    def backward(batch: tuple[Any, Any, Tensor, Tensor]) -> Tensor:
        images, texts, image_ids, caption_ids = batch
        images, texts = images.to(encoder.device), texts.to(encoder.device)
        logits = head.grid(head.encode("image", images), head.encode("text", texts))  # (batch, batch)
        ids = {"image_ids": image_ids.to(logits.device), "caption_ids": caption_ids.to(logits.device)}
        loss = matching_loss(logits, **ids, contrast=recipe.contrast, binary=recipe.binary)
        loss.backward()
        return loss.detach()

    return (order.steps, lambda epoch, first: prefetch(order(epoch, first), load, recipe.workers)), backward


def _labelled(
    recipe: MatchRecipe, encoder: DualEncoder, head: Any, part: Part
) -> tuple[Steps, Callable[[Any], Tensor]]:
    """Pairs that somebody labelled, matches and others weighing the same however many there are of each."""
    labels = np.asarray(part.labels, np.float32)
    if labels.all() or not labels.any():
        raise DataError("the labelled pairs to train on are all of one label; a matcher needs both")
    weights = np.where(labels, 0.5 / labels.mean(), 0.5 / (1 - labels.mean())).astype(np.float32)
    size = min(recipe.batch_size, len(labels))
    steps = len(labels) // size

    def order(epoch: int, first: int) -> Iterable[tuple[int, np.ndarray]]:
        shuffled = np.random.default_rng([recipe.seed, epoch]).permutation(len(labels))
        return ((epoch, shuffled[step * size : (step + 1) * size]) for step in range(first, steps))

    def load(batch: tuple[int, np.ndarray]) -> tuple[Any, Any, Tensor, Tensor]:
        epoch, chosen = batch
        numbers = torch.from_numpy(labels[chosen]), torch.from_numpy(weights[chosen])
        return part.images(part.rows[chosen], epoch), part.captions(chosen), *numbers

    def backward(batch: tuple[Any, Any, Tensor, Tensor]) -> Tensor:
        images, texts, wanted, weight = batch
        images, texts = images.to(encoder.device), texts.to(encoder.device)
        logits = head.pairs(head.encode("image", images), head.encode("text", texts))  # (batch,)
        wanted, weight = wanted.to(logits.device), weight.to(logits.device)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted, weight)
        loss.backward()
        return loss.detach()

    return (steps, lambda epoch, first: prefetch(order(epoch, first), load, recipe.workers)), backward
