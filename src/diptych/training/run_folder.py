"""The folder of a training run: who may write into it, what a run leaves there, and how its model is replaced."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from diptych.errors import ConfigError
from diptych.models.checkpoints import CARD
from diptych.runtime.atomic import is_temporary, remove_leftovers, replaced_folder, restore, write_text
from diptych.runtime.locks import held
from diptych.training.settings import to_yaml
from diptych.training.trainer import CHECKPOINT, LOG, read_checkpoint

MODEL, RECIPE = "model", "recipe.yaml"
MARK, LOCK, OWNER = "diptych-run.json", "diptych-run.lock", "diptych-owner.json"
_PHASES = ("heads", "pair", "cross", "words", "reward", "whole")
_NAMES = (MODEL, RECIPE, LOG, CHECKPOINT, "best.safetensors", "tensorboard", *_PHASES)
"""What a run of any recipe writes into its folder."""

_OWN = (MARK, LOCK, OWNER, RECIPE, LOG, CHECKPOINT, "best.safetensors", *_PHASES)
"""What is written in the folder itself; a finished model may lie elsewhere, and its link is replaced."""

_SIGNS = (CARD, "training.json")  # of a model that a recipe published


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run whose one owner this process is."""

    out: Path
    recipe: Any

    @property
    def model(self) -> Path:
        return self.out / MODEL

    def record(self) -> None:
        """Write which recipe the run is of; once its checkpoint, if there is one, was accepted."""
        write_text(self.out / RECIPE, to_yaml(self.recipe))

    def publishing(self) -> AbstractContextManager[Path]:
        """A folder for the finished model, which takes the place of the model that is there; see `replaced_folder`."""
        return replaced_folder(self.model, is_published)


@contextmanager
def owned_run(recipe: Any, *, resume: bool) -> Iterator[Run]:
    """Own the folder `recipe.out` while the context lasts, and put back what an interrupted run left in it.

    Nothing is written into a folder that holds what a run would write but that no run wrote.

    Raises:
        ConfigError: it is such a folder, holds a run of another recipe, or holds one and `resume` was not asked for; or
            a checkpoint in it cannot be read.
        Busy: another process trains there.
    """
    out = Path(recipe.out)
    _refuse_other_files(out, recipe)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK, out / OWNER, f"is training in '{out}'"):
        restore(out / MODEL, is_published)
        for folder in (out, *(out / name for name in _PHASES)):
            remove_leftovers(folder)
        _refuse_finished(out, resume)
        try:
            write_text(out / MARK, json.dumps({"recipe": _kind(recipe)}) + "\n")
            yield Run(out, recipe)
        finally:
            if not any(os.path.lexists(out / name) for name in _NAMES):  # nothing was trained: leave no trace
                _unmark(out, is_new)


def is_published(model: Path) -> bool:
    """Whether a recipe wrote the model's folder; one that is empty is nobody's loss."""
    return model.is_dir() and (any((model / sign).is_file() for sign in _SIGNS) or not any(model.iterdir()))


def _refuse_other_files(out: Path, recipe: Any) -> None:
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"'{out}' is no folder; choose another with out")
    for name in _OWN:
        if (out / name).is_symlink():
            raise ConfigError(f"'{out / name}' is a link, and what it leads to would be replaced; remove the link")
    kind = _kind_of_run(out)
    if kind is None:
        if there := [name for name in _NAMES if os.path.lexists(out / name)]:
            raise ConfigError(
                f"'{out}' holds '{there[0]}', which no training run of diptych wrote, and it would be replaced; choose "
                "another folder with out"
            )
    elif kind != _kind(recipe):
        raise ConfigError(f"'{out}' holds a run of {kind}, not of {_kind(recipe)}; choose another folder with out")


def _kind_of_run(out: Path) -> str | None:
    """The recipe of the run in a folder; None where no run is. Before it was marked, a run had its recipe and a log."""
    with suppress(OSError, ValueError, RecursionError, TypeError, LookupError):
        kind = json.loads((out / MARK).read_text("utf-8"))["recipe"]
        if kind in {recipe.__name__ for recipe in _recipes()}:
            return str(kind)
    if not any(out.glob(LOG)) and not any(out.glob(f"*/{LOG}")):
        return None
    try:
        settings = yaml.safe_load((out / RECIPE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(settings, dict) or not {"data", "out"} <= set(settings):
        return None
    for recipe in _recipes():
        if set(settings) <= {field.name for field in dataclasses.fields(recipe)}:
            return recipe.__name__
    return None


def _recipes() -> list[Any]:
    from diptych.training.caption.config import CaptionRecipe
    from diptych.training.contrastive.config import ContrastiveRecipe
    from diptych.training.match.config import MatchRecipe
    from diptych.training.prompt.config import PromptRecipe

    return [ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe]


def _kind(recipe: Any) -> str:
    return type(recipe).__name__


def _refuse_finished(out: Path, resume: bool) -> None:
    checkpoints = [path for path in (out / CHECKPOINT, *(out / name / CHECKPOINT for name in _PHASES)) if path.exists()]
    if not resume and (checkpoints or os.path.lexists(out / MODEL)):
        raise ConfigError(f"'{out}' holds a run already; resume it, or choose another folder with out")
    for path in checkpoints:
        read_checkpoint(path, mapped=True)


def _unmark(out: Path, is_new: bool) -> None:
    """Remove what marks a run while its lock is held: whoever waits for the lock sees that its file is gone."""
    with suppress(OSError):
        for path in (out / MARK, out / OWNER, out / LOCK):
            path.unlink(missing_ok=True)
        if is_new and not any(not is_temporary(path) for path in out.iterdir()):
            out.rmdir()
