"""Metadata of an index (`index.json`): format, model and ANN index, checked when read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diptych.errors import DataError
from diptych.runtime.atomic import write_text

METADATA_FILE = "index.json"
FORMAT = 1

_MAX_BYTES = 65_536
_MAX_NAME = 4_096


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of an index, with every value checked, since an index may come from somebody else.

    Raises:
        DataError: there is none, it is damaged, or a newer diptych made it.
    """
    file = folder / METADATA_FILE
    try:
        if not file.is_file():  # a pipe would wait for a writer
            raise FileNotFoundError
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise DataError(
                f"'{file}' has more than {_MAX_BYTES:,} bytes, more than any index has; index the pictures again"
            )
        metadata = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"'{folder}' holds no index; make one with `diptych index FOLDER`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{file}' cannot be read ({first_line(error)}); index the pictures again") from error
    format = metadata.get("format") if isinstance(metadata, dict) else None
    if isinstance(format, int) and format > FORMAT:
        raise DataError(f"'{folder}' has index format {str(format)[:20]}; this diptych reads {FORMAT}: update it")
    if not isinstance(metadata, dict):
        raise DataError(f"'{file}' is not an index's metadata: it is not a JSON object; index the pictures again")
    if wrong := _wrong(metadata, _VALUES):
        raise DataError(f"'{file}' is not an index's metadata: its '{wrong}' is not valid; index the pictures again")
    if wrong := _wrong(metadata["model"], _MODEL_VALUES):
        raise DataError(
            f"'{file}' does not name the model that made the index: '{wrong}' is not valid; index the pictures again"
        )
    metadata["model"] = {name: metadata["model"].get(name) for name in _MODEL_VALUES}
    return metadata


def _wrong(values: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]]) -> str | None:
    """The first name whose value fails its check."""
    return next((name for name, check in checks.items() if not check(values.get(name))), None)


def _count(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_name(value: Any) -> bool:
    """Whether a value can be a path or name: a string without NUL that a file system can hold."""
    if not isinstance(value, str) or "\0" in value or not 0 < len(value) <= _MAX_NAME:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte, which JSON can contain
        return False
    return True


# Checks of the metadata's values. The hash becomes part of file names in the cache folder, so its form is strict.
_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "format": _count(FORMAT, FORMAT),
    "model": lambda value: isinstance(value, dict),
    "id": lambda value: value is None or (isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{1,64}", value))),
    "root": lambda value: value is None or _is_name(value),
    "ann_rows": lambda value: value is None or _count(0, 2**40)(value),
    "ann_partitions": lambda value: value is None or _count(0, 2**40)(value),
}
_MODEL_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "name": _is_name,
    "hash": lambda value: value is None or (isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{1,128}", value))),
    "dim": _count(1, 2**16),
    "image_size": lambda value: value is None or _count(1, 2**16)(value),
}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
