"""A training run: one owner of its folder, its data, its training and the publication of its model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import yaml

from diptych.data.doctor.inspect import usable_pairs
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, DataError
from diptych.models.checkpoints import METADATA
from diptych.runtime.atomic import is_temporary, remove_leftovers, replaced_folder, restore, write_text
from diptych.runtime.locks import held
from diptych.runtime.progress import Progress, silent
from diptych.training.caption.config import CaptionRecipe
from diptych.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.match.config import MatchRecipe
from diptych.training.prompt.config import PromptRecipe
from diptych.training.run_settings import RunSettings
from diptych.training.settings import to_yaml
from diptych.training.trainer import LOG, Outcome, Task, Trainer

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs

Recipe = TypeVar("Recipe", bound=RunSettings)

MODEL, RECIPE = "model", "recipe.yaml"
MARKER, LOCK, OWNER = "diptych-run.json", "diptych-run.lock", "diptych-owner.json"
_PHASES = ("heads", "pair", "cross", "words", "reward", "whole")  # subfolders of a run, with checkpoints of their own
_NAMES = (MODEL, RECIPE, LOG, CHECKPOINT, BEST, "tensorboard", *_PHASES)
"""Everything that a run of any recipe writes into its folder."""

_OWN_NAMES = (MARKER, LOCK, OWNER, RECIPE, LOG, CHECKPOINT, BEST, *_PHASES)
"""What a run writes in the folder itself. The finished model may be a link, which is replaced."""

_MODEL_FILES = (METADATA, "training.json")  # one of them is in every published model
_RECIPES = (ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe)


@dataclasses.dataclass
class TrainingData:
    """The usable images of a data set, split for training."""

    train: Pairs
    val: Pairs
    left_out: Report
    """The unusable images, by reason."""

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images by split."""
        return {"train": len(self.train), "val": len(self.val)}


@dataclasses.dataclass(frozen=True)
class Run(Generic[Recipe]):
    """A run folder that this process owns."""

    recipe: Recipe
    progress: Progress = silent

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.recipe.out)

    @property
    def model(self) -> Path:
        """The folder of the published model."""
        return self.out / MODEL

    def load_data(self, pairs: Pairs | None = None) -> TrainingData:
        """Read the data set of the recipe, or take `pairs`; drop unusable images and split the rest.

        Raises:
            DataError: no image is usable, too many are unusable, or a split is empty.
        """
        if pairs is None:
            pairs = read_pairs(self.recipe.data, self.recipe.format)
        pairs, left_out = usable_pairs(pairs, max_bad_share=self.recipe.max_bad_share, progress=self.progress)
        return TrainingData(*split_for_training(pairs, self.recipe.val_fraction), left_out)

    def fit(self, task: Task, *, phase: str = "", settings: RunSettings | None = None) -> Outcome:
        """Train a task, from the last checkpoint if there is one; `start_run` refuses checkpoints without `resume`.

        Args:
            task: what is trained.
            phase: the subfolder for log and checkpoint; the run folder itself by default.
            settings: schedule and optimizer; those of the recipe by default.
        """
        folder = self.out / phase
        return Trainer(task, settings or self.recipe, folder, self.progress, self._record).fit(resume=True)

    def _record(self) -> None:
        """Write the recipe, once the checkpoint has been accepted."""
        write_text(self.out / RECIPE, to_yaml(self.recipe))

    def publish(self) -> AbstractContextManager[Path]:
        """A temporary folder for the finished model, which atomically replaces the published one; see `publish`."""
        return publish(self.out)


def publish(out: Path) -> AbstractContextManager[Path]:
    """A temporary folder for a model, which atomically replaces the published model of the run folder `out`.

    Raises:
        ConfigError: the model folder was not written by diptych; it is left alone.
        StorageError: the disk is full; the published model stays.
    """
    return replaced_folder(out / MODEL, is_published)


@contextmanager
def start_run(recipe: Recipe, *, resume: bool, progress: Progress = silent) -> Iterator[Run[Recipe]]:
    """Own the folder `recipe.out` within the context, and repair what an interrupted run left there.

    Nothing is written into a folder that holds other files under the names that a run uses.

    Raises:
        ConfigError: the folder holds other files or a run of another recipe; it holds a run and `resume` is false; or
            one of its checkpoints is damaged.
        Busy: another process trains in the folder.
    """
    out = Path(recipe.out)
    _refuse_other_files(out, recipe)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK, out / OWNER, f"is training in '{out}'"):
        restore(out / MODEL, is_published)
        for folder in (out, *(out / name for name in _PHASES)):
            remove_leftovers(folder)
        _refuse_started(out, resume)
        try:
            write_text(out / MARKER, json.dumps({"recipe": _kind(recipe)}) + "\n")
            yield Run(recipe, progress)
        finally:
            if not any(os.path.lexists(out / name) for name in _NAMES):  # nothing was trained: leave no trace
                _unmark(out, is_new)


def split_for_training(pairs: Pairs, val_fraction: float | None) -> tuple[Pairs, Pairs]:
    """Split a data set into training and validation images; images of the `test` split are in neither.

    Args:
        pairs: the data set.
        val_fraction: fraction of the training images held out, by a hash of the image id; None takes the `val` split of
            the data set, or holds out 0.1 if it has none.

    Raises:
        DataError: a split is empty, or there are fewer than two training images.
    """
    if val_fraction is None:
        pairs = pairs.with_val()
    else:
        own = "train" if "train" in pairs.split_sizes else None
        pairs = pairs.where(split == own for split in pairs.values("split")).with_val(val_fraction)
    train_pairs, val_pairs = pairs.split("train"), pairs.split("val")
    if len(train_pairs) < 2:
        raise DataError("training needs at least two images: each is a negative of the other")
    return train_pairs, val_pairs


def is_published(model: Path) -> bool:
    """Whether a recipe wrote the model folder, or the folder is empty: then it may be replaced."""
    return model.is_dir() and (any((model / name).is_file() for name in _MODEL_FILES) or not any(model.iterdir()))


def _refuse_other_files(out: Path, recipe: RunSettings) -> None:
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"'{out}' is not a folder; choose another with `out`")
    for name in _OWN_NAMES:
        if (out / name).is_symlink():
            raise ConfigError(f"'{out / name}' is a link, and what it leads to would be replaced; remove the link")
    kind = _kind_of_run(out)
    if kind is None:
        for name in _NAMES:
            if os.path.lexists(out / name):
                raise ConfigError(
                    f"'{out}' holds '{name}', which was not written by a training run of diptych and would be "
                    "replaced; choose another folder with `out`"
                )
    elif kind != _kind(recipe):
        raise ConfigError(f"'{out}' holds a run of {kind}, not of {_kind(recipe)}; choose another folder with `out`")


def _kind_of_run(out: Path) -> str | None:
    """The recipe class of the run in a folder, or None. Older runs have no marker, but a recipe and a log."""
    with suppress(OSError, ValueError, RecursionError, TypeError, LookupError):
        kind = json.loads((out / MARKER).read_text("utf-8"))["recipe"]
        if kind in {recipe.__name__ for recipe in _RECIPES}:
            return str(kind)
    if not any(out.glob(LOG)) and not any(out.glob(f"*/{LOG}")):
        return None
    try:
        settings = yaml.safe_load((out / RECIPE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(settings, dict) or not {"data", "out"} <= set(settings):
        return None
    for recipe in _RECIPES:
        if set(settings) <= {field.name for field in dataclasses.fields(recipe)}:
            return recipe.__name__
    return None


def _kind(recipe: RunSettings) -> str:
    return type(recipe).__name__


def _refuse_started(out: Path, resume: bool) -> None:
    checkpoints = [path for path in (out / CHECKPOINT, *(out / name / CHECKPOINT for name in _PHASES)) if path.exists()]
    if not resume and (checkpoints or os.path.lexists(out / MODEL)):
        raise ConfigError(f"'{out}' already holds a run; resume it, or choose another folder with out")
    for path in checkpoints:
        read_checkpoint(path, mapped=True)


def _unmark(out: Path, is_new: bool) -> None:
    """Remove the marker and the lock files, while the lock is held; a waiting process notices that its file is gone."""
    with suppress(OSError):
        for path in (out / MARKER, out / OWNER, out / LOCK):
            path.unlink(missing_ok=True)
        if is_new and not any(not is_temporary(path) for path in out.iterdir()):
            out.rmdir()
