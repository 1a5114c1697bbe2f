"""Resuming a run: what is recorded of its data and settings, and which settings may change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diptych.errors import ConfigError, NextStep
from diptych.runtime.atomic import write_text
from diptych.training.recipe_files import RECIPE, read_recipe
from diptych.training.run_settings import RunSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diptych.data.pairs import Pairs

Recipe = TypeVar("Recipe", bound=RunSettings)

MARKER = "diptych-run.json"

CHANGEABLE = frozenset(
    {
        *("lr", "lr_head", "lr_image", "lr_text", "lr_tower", "reward_lr", "weight_decay", "warmup", "max_grad_norm"),
        *("epochs", "reward_epochs", "max_steps", "patience", "ema"),
        *("save_steps", "save_minutes", "tensorboard", "max_bad_share"),
        *("device", "workers", "precision", "chunk_size"),
    }
)
"""Settings that may change when a run is resumed; they apply from its last checkpoint on."""

_COMPARED_BY_CONTENT = {"data", "format"}  # the data set may be moved or converted, but not changed


@dataclass(frozen=True)
class Change:
    """A setting that was changed when a run was resumed."""

    setting: str
    before: object
    after: object
    step: int
    """The step of the checkpoint from which the run continued with the new value."""
    phase: str = ""
    """The phase of that checkpoint; empty if the run has one phase."""

    def __str__(self) -> str:
        where = f"step {self.step:,} of {self.phase}" if self.phase else f"step {self.step:,}"
        return f"{self.setting} was {self.before} up to {where}, and {self.after} from there on"


@dataclass(frozen=True)
class DataRecord:
    """The data of a run: the number of images by split, and a hash of their ids and captions."""

    content: str
    train: int
    val: int


@dataclass(frozen=True)
class RunRecord:
    """The file `diptych-run.json` of a run folder."""

    recipe: str
    """Class name of the recipe."""
    data: DataRecord | None = None
    """None before the data set has been read, and in older runs."""
    changes: tuple[Change, ...] = ()

    @classmethod
    def read(cls, out: Path) -> RunRecord | None:
        """The record in a run folder; None if it is missing or damaged."""
        with suppress(OSError, ValueError, RecursionError, TypeError, LookupError):
            content = json.loads((out / MARKER).read_text("utf-8"))
            data = DataRecord(**content["data"]) if content.get("data") else None
            return cls(str(content["recipe"]), data, tuple(Change(**change) for change in content.get("changes", [])))
        return None

    def write(self, out: Path) -> None:
        """Write the record into a run folder, atomically."""
        content = {name: value for name, value in dataclasses.asdict(self).items() if value}
        write_text(out / MARKER, json.dumps(content) + "\n")

    def with_changes(self, changes: Iterable[Change]) -> RunRecord:
        """The record with further changes; one that it already has is not repeated."""
        return dataclasses.replace(self, changes=tuple(dict.fromkeys((*self.changes, *changes))))


def recorded_recipe(recipe: type[Recipe], out: str | Path) -> Recipe:
    """The recipe of the run in a folder, as it was last started or resumed; its `out` is that folder.

    Raises:
        ConfigError: the folder holds no run of this recipe, or its `recipe.yaml` is damaged.
    """
    path = Path(out) / RECIPE
    record = RunRecord.read(Path(out))
    if record and record.recipe != recipe.__name__:
        raise ConfigError(
            f"'{out}' holds a run of {record.recipe}, not of {recipe.__name__}",
            steps=[NextStep("name another folder", "out")],
        )
    if not path.exists():
        raise ConfigError(f"'{out}' contains no run to resume; start it without `resume`")
    return dataclasses.replace(read_recipe(recipe, path), out=str(out))


def record_data(train: Pairs, val: Pairs, labels: NDArray[np.bool_] | None = None) -> DataRecord:
    """A record of the data of a run.

    Args:
        train: training images with their captions.
        val: validation images with their captions.
        labels: labels of the pairs, for labelled data.
    """
    digest = hashlib.sha256()
    for pairs in (train, val):
        for row in zip(pairs.values("image_id"), pairs.values("captions"), strict=True):
            digest.update(f"{row}\0".encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    if labels is not None:
        digest.update(labels.tobytes())
    return DataRecord(digest.hexdigest()[:32], len(train), len(val))


def changes_of(recipe: RunSettings, recorded: RunSettings, record: RunRecord, step: int, phase: str) -> list[Change]:
    """The settings of a resumed run that differ from the recorded ones.

    Args:
        recipe: the settings with which the run is resumed.
        recorded: the settings with which it was started.
        record: the record of the run.
        step: the step of its last checkpoint.
        phase: the phase of that checkpoint.

    Raises:
        ConfigError: a setting differs that may not change; the message names it with both values.
    """
    changes = [
        Change(field.name, getattr(recorded, field.name), getattr(recipe, field.name), step, phase)
        for field in dataclasses.fields(recipe)
        if field.name != "out" and getattr(recorded, field.name) != getattr(recipe, field.name)
    ]
    by_content = _COMPARED_BY_CONTENT if record.data else set()
    refused = [change for change in changes if change.setting not in CHANGEABLE | by_content]
    if refused:
        values = "; ".join(
            f"`{change.setting}` is {change.after!r}, the run has {change.before!r}" for change in refused
        )
        names = sorted(CHANGEABLE & {field.name for field in dataclasses.fields(recipe)})
        changeable = ", ".join(f"`{name}`" for name in names)
        raise ConfigError(
            f"the run in '{recipe.out}' cannot be resumed with other settings: {values}. Leave "
            f"these settings out, or start a new run in another folder with `out`; only these may change: {changeable}"
        )
    return [change for change in changes if change.setting in CHANGEABLE]


def check_data(recipe: RunSettings, data: DataRecord, recorded: DataRecord | None) -> None:
    """Check that a resumed run has the data that it was started with; older runs have no record of it.

    Raises:
        ConfigError: the images, their captions or the split differ.
    """
    if recorded is None or data == recorded:
        return
    raise ConfigError(
        f"data is '{recipe.data}', which is not what the run in '{recipe.out}' was started with: it had "
        f"{recorded.train:,} training and {recorded.val:,} validation images, there are now {data.train:,} and "
        f"{data.val:,}"
        + ("" if (data.train, data.val) != (recorded.train, recorded.val) else ", with other ids or captions")
        + ". Resume it with its own data, or start a new run in another folder with `out`"
    )
