"""Metadata of an index (`index.json`): format, model and ANN index, checked when read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diptych.errors import ConfigError, DataError
from diptych.runtime.atomic import write_text
from diptych.search.layout import METADATA_FILE, damaged, first_line, no_metadata

FORMAT = 1

_MAX_BYTES = 65_536
_MAX_NAME = 4_096
MAX_VOLUMES = 256


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
            raise damaged(folder, f"{METADATA_FILE} has more than {_MAX_BYTES:,} bytes, more than any index has")
        metadata = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise no_metadata(folder) from None
    except PermissionError as error:
        raise DataError(f"'{file}' cannot be read ({error.strerror}); check its permissions") from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, f"{METADATA_FILE} cannot be read: {first_line(error)}") from error
    format = metadata.get("format") if isinstance(metadata, dict) else None
    if isinstance(format, int) and format > FORMAT:
        raise DataError(f"'{folder}' has index format {str(format)[:20]}; this diptych reads {FORMAT}: update it")
    if not isinstance(metadata, dict):
        raise damaged(folder, f"{METADATA_FILE} is not a JSON object")
    if wrong := _wrong(metadata, _VALUES):
        raise damaged(folder, f"the value of '{wrong}' in {METADATA_FILE} is not valid")
    if wrong := _wrong(metadata["model"], _MODEL_VALUES):
        raise damaged(
            folder, f"{METADATA_FILE} does not name the model that made the index: its '{wrong}' is not valid"
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


def _are_lists(value: object) -> bool:
    """Whether a value holds lists of names by name."""
    return isinstance(value, dict) and all(
        _is_name(name) and isinstance(items, list) and all(map(_is_name, items)) for name, items in value.items()
    )


# Checks of the metadata's values. The hash becomes part of file names in the cache folder, so its form is strict.
_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "format": _count(FORMAT, FORMAT),
    "model": lambda value: isinstance(value, dict),
    "id": lambda value: value is None or (isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{1,64}", value))),
    "root": lambda value: value is None or _is_name(value),
    "volumes": lambda value: value is None or (_are_lists(value) and len(value) <= MAX_VOLUMES),
    "exclude": lambda value: value is None or _are_lists(value),
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


def update_metadata(folder: Path, **values: Any) -> None:
    """Replace some values of an index's metadata. The caller holds the index's lock.

    Raises:
        ConfigError: the metadata would become larger than any diptych reads.
    """
    metadata = {**read_metadata(folder), **values}
    if len(json.dumps(metadata, indent=2)) >= _MAX_BYTES:
        raise ConfigError(
            f"'{folder / METADATA_FILE}' would exceed {_MAX_BYTES:,} bytes; use fewer or shorter patterns"
        )
    write_json(folder / METADATA_FILE, metadata)
