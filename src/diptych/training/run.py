"""A training run: one owner of its folder, its data, its training and the publication of its model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import yaml

from diptych.data.doctor.inspect import usable_pairs
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, DataError, NextStep
from diptych.models.checkpoints import METADATA
from diptych.runtime.atomic import is_temporary, remove_leftovers, replaced_folder, restore, write_text
from diptych.runtime.locks import held
from diptych.runtime.progress import Progress, silent
from diptych.training.caption.config import CaptionRecipe
from diptych.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.match.config import MatchRecipe
from diptych.training.prompt.config import PromptRecipe
from diptych.training.recipe_files import RECIPE, to_yaml
from diptych.training.resume import MARKER, RunRecord, changes_of, check_data, record_data, recorded_recipe
from diptych.training.run_settings import RunSettings
from diptych.training.trainer import LOG, Outcome, Task, Trainer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs

Recipe = TypeVar("Recipe", bound=RunSettings)
Batch = TypeVar("Batch")

MODEL = "model"
LOCK, OWNER = "diptych-run.lock", "diptych-owner.json"
_PHASES = ("heads", "pair", "cross", "words", "reward", "whole")  # subfolders of a run, with checkpoints of their own
_NAMES = (MODEL, RECIPE, LOG, CHECKPOINT, BEST, "tensorboard", *_PHASES)
"""Everything that a run of any recipe writes into its folder."""

_OWN_NAMES = (MARKER, LOCK, OWNER, RECIPE, LOG, CHECKPOINT, BEST, *_PHASES)
"""What a run writes in the folder itself. The finished model may be a link, which is replaced."""

_MODEL_FILES = (METADATA, "training.json")  # one of them is in every published model
_RECIPES = (ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe)
_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # of torchrun and accelerate, Open MPI, MPICH


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


@dataclasses.dataclass
class Run(Generic[Recipe]):
    """A run folder that this process owns."""

    recipe: Recipe
    record: RunRecord
    """What the run folder records of it, written when training begins."""
    progress: Progress = silent
    resumed: bool = False

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.recipe.out)

    @property
    def model(self) -> Path:
        """The folder of the published model."""
        return self.out / MODEL

    def read_pairs(self) -> Pairs:
        """The data set of the recipe, before its images are checked.

        Raises:
            DataError: there is no data set, or its format is unknown.
        """
        return read_pairs(self.recipe.data, self.recipe.format)

    def load_data(self, pairs: Pairs | None = None, labels: NDArray[np.bool_] | None = None) -> TrainingData:
        """Drop the unusable images of the data set and split the rest.

        Args:
            pairs: the data set; that of the recipe by default.
            labels: labels of its pairs, for labelled data.

        Raises:
            DataError: no image is usable, too many are unusable, a split is empty, or nothing can be learned from the
                captions.
            ConfigError: the run is resumed, and was started with other data.
        """
        if pairs is None:
            pairs = self.read_pairs()
        if labels is None:
            refuse_equal_captions(pairs)
        pairs, left_out = usable_pairs(pairs, max_bad_share=self.recipe.max_bad_share, progress=self.progress)
        data = TrainingData(*split_for_training(pairs, self.recipe.val_fraction), left_out)
        if labels is None:
            refuse_equal_captions(data.train)
        recorded = record_data(data.train, data.val, labels)
        if self.resumed:
            check_data(self.recipe, recorded, self.record.data)
        self.record = dataclasses.replace(self.record, data=recorded)
        return data

    @property
    def changes(self) -> list[str]:
        """The settings that were changed when the run was resumed, in words."""
        return [str(change) for change in self.record.changes]

    def metadata(self, data: TrainingData, scores: Mapping[str, object]) -> dict[str, object]:
        """What the published model says of its training: recipe, number of images, validation scores and changes."""
        metadata: dict[str, object] = {
            "recipe": dataclasses.asdict(self.recipe),
            "pictures": data.sizes,
            "validation": scores,
        }
        return metadata | ({"changes": self.changes} if self.changes else {})

    def fit(self, task: Task[Batch], *, phase: str = "", settings: RunSettings | None = None) -> Outcome:
        """Train a task, from the last checkpoint if there is one; `start_run` refuses checkpoints without `resume`.

        Args:
            task: what is trained.
            phase: the subfolder for log and checkpoint; the run folder itself by default.
            settings: schedule and optimizer; those of the recipe by default.
        """
        folder = self.out / phase
        return Trainer(task, settings or self.recipe, folder, self.progress, self._record).fit(resume=True)

    def _record(self) -> None:
        """Write the record and the recipe, once the checkpoint has been accepted."""
        self.record.write(self.out)
        write_text(self.out / RECIPE, to_yaml(self.recipe))

    def publish(self, phase: str = "") -> AbstractContextManager[Path]:
        """A temporary folder for a model, which atomically replaces the published one when the context ends.

        Args:
            phase: the subfolder in which the model is published; the run folder itself by default.

        Raises:
            ConfigError: the model folder was not written by diptych; it is left alone.
            StorageError: the disk is full; the published model stays.
        """
        return replaced_folder(self.out / phase / MODEL, is_published)


@contextmanager
def start_run(recipe: Recipe, *, resume: bool, progress: Progress = silent) -> Iterator[Run[Recipe]]:
    """Own the folder `recipe.out` within the context, and repair what an interrupted run left there.

    Nothing is written into a folder that holds other files under the names that a run uses, nor into one that is to be
    resumed with settings that may not change.

    Raises:
        ConfigError: the folder holds other files or a run of another recipe; it holds a run and `resume` is false; it
            holds no checkpoint, or one of a run with other settings, and `resume` is true; a checkpoint is damaged; or
            the process is one of several of a distributed launch.
        Busy: another process trains in the folder.
    """
    refuse_several_processes()
    out = Path(recipe.out)
    _refuse_other_files(out, recipe)
    is_new = not out.exists()
    if is_new and resume:
        raise ConfigError(_no_checkpoint(out))
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK, out / OWNER, f"is training in '{out}'"):
        try:
            restore(out / MODEL, is_published)
            for folder in (out, *(out / name for name in _PHASES)):
                remove_leftovers(folder)
            if resume:
                record = _accepted(recipe)
            else:
                _refuse_started(out)
                record = RunRecord(_kind(recipe))
                record.write(out)
            yield Run(recipe, record, progress, resume)
        finally:
            if not any(os.path.lexists(out / name) for name in _NAMES):  # nothing was trained: leave no trace
                _unmark(out, is_new)


def refuse_several_processes() -> None:
    """Check that the process was not launched as one of several, by `torchrun` or `mpirun` for example.

    Raises:
        ConfigError: it was; the message names the variable that says so.
    """
    for name in _WORLD_SIZES:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1:
            raise ConfigError(
                f"{name} is {value}, so this is one of {value} processes, but a training run uses one process; start "
                "it without torchrun, accelerate or mpirun"
            )


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
    sizes = pairs.split_sizes
    if sizes.get("train", 0) < 2 or not sizes.get("val"):
        parts = ", ".join(f"{sizes.get(name, 0):,} {name}" for name in dict.fromkeys(("train", "val", *sizes)))
        raise DataError(
            "training needs at least three usable images: two of the split train, and one of val to select the best "
            f"epoch; this data set has {parts}. Add images",
            steps=[NextStep("or hold out another share of the training images", "val_fraction")],
        )
    return pairs.split("train"), pairs.split("val")


def refuse_equal_captions(pairs: Pairs) -> None:
    """Check that the captions of several images differ, up to case and whitespace.

    Raises:
        DataError: all are the same, so that nothing can be learned from them.
    """
    captions = iter(pairs.captions())
    first = _plain(next(captions, ""))
    if len(pairs) > 1 and all(_plain(caption) == first for caption in captions):
        raise DataError(
            f"all captions of the {len(pairs):,} images are '{first[:80]}', so there is nothing to learn from "
            "them; use a data set whose captions describe their images"
        )


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split())


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
    record = RunRecord.read(out)
    if record and record.recipe in {recipe.__name__ for recipe in _RECIPES}:
        return record.recipe
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


def has_checkpoint(out: Path) -> bool:
    """Whether a folder holds a checkpoint from which a run can be resumed."""
    return bool(_checkpoints(out))


def _checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, the last one last."""
    paths = [path for path in (out / CHECKPOINT, *(out / name / CHECKPOINT for name in _PHASES)) if path.exists()]
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)


def _refuse_started(out: Path) -> None:
    if has_checkpoint(out) or os.path.lexists(out / MODEL):
        raise ConfigError(f"'{out}' already holds a run; resume it, or choose another folder with `out`")


def _accepted(recipe: RunSettings) -> RunRecord:
    """The record of a run that is to be resumed, with the settings that have changed."""
    out = Path(recipe.out)
    checkpoints = _checkpoints(out)
    if not checkpoints:
        raise ConfigError(_no_checkpoint(out))
    steps = [json.loads(read_checkpoint(path, mapped=True)["numbers"])["step"] for path in checkpoints]
    record = RunRecord.read(out) or RunRecord(_kind(recipe))
    phase = checkpoints[-1].parent.name if checkpoints[-1].parent != out else ""
    changes = changes_of(recipe, recorded_recipe(type(recipe), out), record, steps[-1], phase)
    return record.with_changes(changes)


def _no_checkpoint(out: Path) -> str:
    if os.path.lexists(out / MODEL):
        return f"'{out}' holds a model, but no checkpoint to resume from; start a new run in another folder with `out`"
    return f"'{out}' contains no checkpoint to resume from; start the run without `resume`"


def _unmark(out: Path, is_new: bool) -> None:
    """Remove the marker and the lock files, while the lock is held; a waiting process notices that its file is gone."""
    with suppress(OSError):
        for path in (out / MARKER, out / OWNER, out / LOCK):
            path.unlink(missing_ok=True)
        if is_new and not any(not is_temporary(path) for path in out.iterdir()):
            out.rmdir()
