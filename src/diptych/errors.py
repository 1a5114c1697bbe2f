"""Errors that diptych raises: each names what is wrong and the next step, and carries the HTTP status it maps to."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class NextStep:
    """A next step that sets a parameter, which not every door has.

    The message of an error is shown to users of Python, of the command line and of the HTTP API alike. What only some
    of them can do is said here instead: the command line shows a step under the flag of the parameter, and only if the
    command has it; a Python traceback shows it under the parameter's name.

    Attributes:
        advice: What to do, as an imperative: "select all images".
        parameter: Name of the parameter in Python.
        value: The value to set, if it is known: "all".
    """

    advice: str
    parameter: str
    value: str = ""

    def in_python(self) -> str:
        """The step as a Python user takes it.

        >>> NextStep("select all images", "split", "all").in_python()
        "select all images (split='all')"
        """
        return f"{self.advice} ({self.parameter}={self.value!r})" if self.value else f"{self.advice} ({self.parameter})"

    def with_flag(self, flag: str) -> str:
        """The step as a user of a command takes it that calls the parameter `flag`.

        >>> NextStep("select all images", "split", "all").with_flag("--split")
        'select all images (--split all)'
        """
        return f"{self.advice} ({flag} {self.value})" if self.value else f"{self.advice} ({flag})"


class DiptychError(Exception):
    """Base of every error that diptych raises on purpose.

    The message may name parameters in backquotes or with their underscores, `batch_size`: the command line shows them
    as flags.

    Attributes:
        status: HTTP status that the error maps to.
        steps: Next steps that set a parameter.
    """

    status = 500

    def __init__(self, message: object = "", *, steps: Sequence[NextStep] = ()) -> None:
        super().__init__(message)
        self.steps = tuple(steps)
        for step in steps:
            self.add_note(f"Next step: {step.in_python()}")


class DataError(DiptychError):
    """A data set cannot be read or used as asked."""

    status = 422


class IndexMissing(DataError):  # noqa: N818 - it names what is the matter
    """There is no index, or its folder was removed while it was open."""

    status = 404


class ImageError(DataError):
    """One image cannot be decoded.

    `reason` is one of `missing`, `empty`, `truncated`, `undecodable`, `too_many_pixels`, `too_many_bytes`,
    `unreadable`, `outside` (of the folders that may be read): stable words to count by.
    """

    def __init__(self, reason: str, message: str, *, steps: Sequence[NextStep] = ()) -> None:
        super().__init__(message, steps=steps)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str], dict[str, object]]:
        return type(self), (self.reason, str(self)), self.__dict__


class ConfigError(DiptychError):
    """A setting is unknown, of the wrong type, or contradicts another."""

    status = 400


class ModelError(DiptychError):
    """A model cannot be built, loaded, or used for what was asked."""

    status = 422


class UntrustedModel(ModelError):  # noqa: N818 - it names what is the matter
    """An index names a model that the user has not named for it."""

    status = 403


class StorageError(DiptychError):
    """A file cannot be written: the disk is full, over its quota, or read-only."""

    status = 507


class Busy(DiptychError):  # noqa: N818 - it names what is the matter
    """Another process holds what only one may write."""

    status = 423


class MissingExtra(DiptychError):  # noqa: N818 - it names what is missing
    """An optional dependency is not installed."""

    status = 501


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` saying which extra of diptych brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"'{module}' is not installed; it comes with the extra '{extra}': pip install 'diptych[{extra}]'"
        ) from error


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A sentence that offers the nearest valid name, and lists them all."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}valid: {', '.join(names)}"
