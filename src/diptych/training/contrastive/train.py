"""The contrastive recipe: from pictures with captions to a trained dual encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.errors import ConfigError, DataError
from diptych.runtime.progress import Progress, silent
from diptych.training.ranges import check_limits

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs
    from diptych.training.run_folder import Run
    from diptych.training.trainer import Outcome
from diptych.training.contrastive.config import ContrastiveRecipe


@dataclass
class Training:
    """A finished run: where its best model lies, how it went, and what of the data was left out."""

    model: Path
    outcome: Outcome
    left_out: Report
    sizes: dict[str, int]


def train(recipe: ContrastiveRecipe, *, resume: bool = False, progress: Progress = silent) -> Training:
    """Train a dual encoder and leave in `recipe.out`: `model/` (the best by validation recall, with a card),
    `recipe.yaml`, `log.jsonl` and `checkpoint.pt` (the last state, from which `resume` goes on exactly).

    Raises:
        DataError: no usable picture, or more than `max_bad_share` cannot be used.
        ConfigError: settings contradict each other or are out of range, `out` holds other files, or a run already and
            `resume` was not asked for.
        Busy: another process trains in `out`.
        ModelError: a tower or model cannot be loaded.
    """
    from diptych.training.run_folder import owned_run

    _check(recipe)
    with owned_run(recipe, resume=resume) as run:
        return _train(run, recipe, resume, progress)


def _train(run: Run, recipe: ContrastiveRecipe, resume: bool, progress: Progress) -> Training:
    from diptych.data.doctor.inspect import sound
    from diptych.data.formats.read import read_pairs
    from diptych.training.contrastive.task import contrastive_task
    from diptych.training.run_folder import Run
    from diptych.training.trainer import Schedule, Trainer

    pairs, left_out = sound(
        read_pairs(recipe.data, recipe.format), max_bad_share=recipe.max_bad_share, progress=progress
    )
    train_pairs, val_pairs = split_for_training(pairs, recipe.val_fraction)
    del pairs  # both parts are copies of its text
    if recipe.head_epochs:
        recipe = _train_heads_first(recipe, resume, progress)
        run = Run(run.out, recipe)
    task = contrastive_task(recipe, train_pairs, val_pairs, progress)
    shared = {name: getattr(recipe, name) for name in Schedule.__dataclass_fields__ if hasattr(recipe, name)}
    outcome = Trainer(task, Schedule(**shared), run.out, progress, run.record).fit(resume)
    return Training(run.model, outcome, left_out, {"train": len(train_pairs), "val": len(val_pairs)})


def split_for_training(pairs: Pairs, val_fraction: float | None) -> tuple[Pairs, Pairs]:
    """The training and validation pictures; test pictures are in neither.

    Raises:
        DataError: one of them is empty, or there are too few pictures for a negative.
    """
    if val_fraction is None:
        pairs = pairs.with_val()
    else:
        own = "train" if "train" in pairs.split_sizes else None
        pairs = pairs.where(split == own for split in pairs.values("split")).with_val(val_fraction)
    train_pairs, val_pairs = pairs.split("train"), pairs.split("val")
    if len(train_pairs) < 2:
        raise DataError("training needs at least two pictures: one is the other's negative")
    return train_pairs, val_pairs


def _check(recipe: ContrastiveRecipe) -> None:
    if not recipe.data:
        raise ConfigError("no data set is given; set data to a folder, a file or a hub name")
    check_limits(recipe)
    if "image" in recipe.freeze and recipe.augment != "none" and recipe.views < 2:
        raise ConfigError(
            "the image tower is frozen, so its features are computed once and augmentation would never be seen; "
            "set views to the number of stored views of each picture (8, say), or augment to none"
        )
    if recipe.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: the other pairs of a batch are its negatives")
    if recipe.head_epochs and recipe.start:
        raise ConfigError("head_epochs warms up new heads, but start brings trained ones; drop one of them")


def _train_heads_first(recipe: ContrastiveRecipe, resume: bool, progress: Progress) -> ContrastiveRecipe:
    """Fit the heads on frozen towers (Kumar et al. 2022, "linear probing, then fine-tuning"); the rest starts there."""
    out = Path(recipe.out) / "heads"
    frozen = replace(
        recipe,
        out=str(out),
        epochs=recipe.head_epochs,
        head_epochs=0,
        freeze=["image", "text"],
        batch_size=max(recipe.batch_size, 256),
        augment="none",
        views=1,
        lora_rank=0,
        chunk_size=None,
        max_steps=None,
    )
    train(frozen, resume=resume, progress=progress)
    return replace(recipe, start=str(out / "model"), head_epochs=0)
