"""Errors that diptych raises: each names what is wrong and the next step, and carries the HTTP status it maps to."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class DiptychError(Exception):
    """Base of every error that diptych raises on purpose."""

    status = 500


class DataError(DiptychError):
    """A data set cannot be read or used as asked."""

    status = 422


class IndexMissing(DataError):  # noqa: N818 - it names what is the matter
    """There is no index, or its folder was removed while it was open."""

    status = 404


class ImageError(DataError):
    """One picture cannot be decoded.

    `reason` is one of `missing`, `empty`, `truncated`, `undecodable`, `too_many_pixels`, `too_many_bytes`,
    `unreadable`, `outside` (of the folders that may be read): stable words to count by.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
