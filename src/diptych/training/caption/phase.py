"""One phase of a captioner's training: batches of pictures with some of their captions, the loop, the best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from diptych.captioning.strategies import Caption
from diptych.captioning.vocabulary import words_of
from diptych.data.pairs import Pairs
from diptych.evaluation.metrics.cider import CiderD
from diptych.runtime.atomic import new_file
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress
from diptych.training.caption.config import CaptionRecipe
from diptych.training.run_folder import Run
from diptych.training.trainer import Outcome, Schedule, Task, Trainer, read_weights

BEST = "best.safetensors"


class Turns:
    """The order of the pictures and which of their captions are read, epoch by epoch; a resumed run draws the same."""

    def __init__(self, pairs: Pairs, recipe: CaptionRecipe) -> None:
        self.captions = [row.captions for row in pairs]
        self.each, self.seed = recipe.captions, recipe.seed
        self.batch_size = min(recipe.batch_size, len(pairs))

    @property
    def steps(self) -> int:
        """Batches in an epoch; the pictures left over wait for another epoch's order."""
        return len(self.captions) // self.batch_size

    def __call__(self, epoch: int, first: int) -> Iterator[tuple[int, np.ndarray, list[str]]]:
        """(epoch, rows, captions) of each batch from step `first` on, one picture's captions after another's."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.captions))
        turns = range(epoch * self.each, (epoch + 1) * self.each)
        for step in range(first, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            of_rows = (self.captions[row] for row in rows)
            yield epoch, rows, [captions[turn % len(captions)] for captions in of_rows for turn in turns]


@dataclass
class Phase:
    """What is trained, and how: `backward` adds the gradients of what `load` made of a batch of `Turns`."""

    name: str
    module: nn.Module
    load: Callable[[tuple[int, np.ndarray, list[str]]], Any]
    backward: Callable[[Any], Tensor]
    epochs: int
    lr: float


def run_phase(
    run: Run, phase: Phase, turns: Turns, validate: Callable[[], dict[str, float]], progress: Progress
) -> Outcome:
    """Train until the epochs are over, and leave the module with the weights that wrote the best captions."""
    recipe: CaptionRecipe = run.recipe
    folder = run.out / phase.name

    def batches(epoch: int, first: int) -> Iterable[Any]:
        return prefetch(turns(epoch, first), phase.load, recipe.workers)

    def save(scores: dict[str, float]) -> None:
        with new_file(folder / BEST) as temporary:
            save_model(phase.module, str(temporary))

    def set_mode(training: bool) -> None:
        phase.module.train(training)

    learning = [weight for weight in phase.module.parameters() if weight.requires_grad]
    task = Task(
        module=phase.module,
        groups=[{"params": learning, "lr": phase.lr}],
        steps_per_epoch=turns.steps,
        batches=batches,
        backward=phase.backward,
        validate=validate,
        save=save,
        set_mode=set_mode,
    )
    told = {name: getattr(recipe, name) for name in Schedule.__dataclass_fields__ if hasattr(recipe, name)}
    schedule = Schedule(**{**told, "epochs": phase.epochs, "metric": "cider"})
    outcome = Trainer(task, schedule, folder, progress, run.record).fit(resume=True)
    read_weights(folder / BEST)
    load_model(phase.module, folder / BEST)
    phase.module.eval()
    return outcome


class Judge:
    """CIDEr-D of the validation pictures' captions; what is reported is tokenized by `metrics.captions`."""

    def __init__(self, pairs: Pairs) -> None:
        self.cider = CiderD([[words_of(text) for text in row.captions] for row in pairs])

    def __call__(self, captions: Iterable[list[Caption]]) -> dict[str, float]:
        """`cider`, from 0 to 10, of the first caption of each picture, and the mean number of words."""
        texts = [words_of(of_one[0].text) for of_one in captions]
        return {"cider": float(self.cider(texts).mean()), "length": float(np.mean([len(words) for words in texts]))}
