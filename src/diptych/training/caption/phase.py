"""A phase of a captioner's training: batches of images with captions, the training loop, and CIDEr validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from diptych.captioning.strategies import Caption
from diptych.captioning.vocabulary import words_of
from diptych.data.pairs import Pairs
from diptych.evaluation.metrics.cider import CiderD
from diptych.runtime.background import prefetch
from diptych.training.caption.config import CaptionRecipe
from diptych.training.checkpoint import BEST, load_weights, save_weights
from diptych.training.run import Run
from diptych.training.trainer import Outcome, Task

Batch = TypeVar("Batch")
CaptionBatch: TypeAlias = tuple[int, NDArray[np.int64], list[str]]
"""(epoch, rows, captions): a batch by its image rows, and the captions of each image one after another."""


class CaptionSampler:
    """Batches of images in a random order, with `recipe.captions` captions each; epochs cycle through the captions."""

    def __init__(self, pairs: Pairs, recipe: CaptionRecipe) -> None:
        self.captions = [row.captions for row in pairs]
        self.per_image, self.seed = recipe.captions, recipe.seed
        self.batch_size = min(recipe.batch_size, len(pairs))

    @property
    def steps(self) -> int:
        """The number of batches in an epoch; an incomplete last batch is dropped."""
        return len(self.captions) // self.batch_size

    def __call__(self, epoch: int, first: int) -> Iterator[CaptionBatch]:
        """The batches of an epoch from step `first` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.captions))
        indices = range(epoch * self.per_image, (epoch + 1) * self.per_image)
        for step in range(first, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            of_rows = (self.captions[row] for row in rows)
            yield epoch, rows, [captions[index % len(captions)] for captions in of_rows for index in indices]


@dataclass
class TrainingPhase(Generic[Batch]):
    """What a phase trains, and how."""

    name: str
    """The subfolder of the run for log, checkpoint and weights."""
    module: nn.Module
    load: Callable[[CaptionBatch], Batch]
    """Loads a batch; called in threads."""
    backward: Callable[[Batch], Tensor]
    """Adds the gradients of a loaded batch and returns the detached loss."""
    epochs: int
    lr: float


def run_phase(
    run: Run[CaptionRecipe],
    phase: TrainingPhase[Batch],
    sampler: CaptionSampler,
    validate: Callable[[], dict[str, float]],
) -> Outcome:
    """Train a phase, and load the weights with the best validation CIDEr into its module."""
    recipe = run.recipe
    weights = run.out / phase.name / BEST

    def set_mode(training: bool) -> None:
        phase.module.train(training)

    task = Task(
        module=phase.module,
        groups=[{"params": [p for p in phase.module.parameters() if p.requires_grad], "lr": phase.lr}],
        steps_per_epoch=sampler.steps,
        batches=lambda epoch, first: prefetch(sampler(epoch, first), phase.load, recipe.workers),
        backward=phase.backward,
        validate=validate,
        save=lambda _scores: save_weights(phase.module, weights),
        set_mode=set_mode,
        metric="cider",
    )
    outcome = run.fit(task, phase=phase.name, settings=replace(recipe, epochs=phase.epochs))
    load_weights(phase.module, weights)
    phase.module.eval()
    return outcome


class CiderScorer:
    """CIDEr-D of captions of the validation images, on the words of `captioning.vocabulary`.

    It selects the best epoch; reported scores use the PTB tokenizer of `evaluation.metrics.captions`.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.cider = CiderD([[words_of(text) for text in row.captions] for row in pairs])

    def __call__(self, captions: Iterable[list[Caption]]) -> dict[str, float]:
        """Score the first caption of each image.

        Returns:
            `cider`, in [0, 10], and `length`, the mean number of words.
        """
        words = [words_of(candidates[0].text) for candidates in captions]
        return {"cider": float(self.cider(words).mean()), "length": float(np.mean([len(caption) for caption in words]))}
