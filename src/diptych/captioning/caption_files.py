"""Captions that somebody wrote, or some model, read from a file by the ids of their pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.data.formats.json_values import entries, is_object
from diptych.data.formats.tables import Columns, caption_list, records
from diptych.errors import DataError


def read_caption_file(path: str | Path) -> dict[str, list[str]]:
    """The captions of each picture, in the file's order.

    The file is a JSON object (`{"1.jpg": "a dog", ...}`, or with lists of captions), COCO's list of results
    (`[{"image_id": ..., "caption": ...}, ...]`), or a table with columns for picture and caption (CSV, TSV, JSON
    lines), as `diptych caption` writes one; its lines that say why a picture has no caption are left out.

    Raises:
        DataError: there is no such file, a column is missing, or it holds no caption.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; give one with a caption for each picture")
    lines: Iterable[tuple[int | str, Any]]
    lines = entries(path) if path.suffix.lower() == ".json" and is_object(path) else _lines(path)
    found: dict[str, list[str]] = {}
    for name, captions in lines:
        found.setdefault(str(name), []).extend(caption_list(captions))
    if not found:
        raise DataError(f"'{path}' holds no caption; it needs a picture and a caption a line")
    return found


def _lines(path: Path) -> Iterable[tuple[str, list[str]]]:
    columns: Columns | None = None
    for where, record in records(path):
        if record.get("error"):
            continue
        columns = columns or Columns.find(record, where)
        name = record.get(columns.image_id) if columns.image_id else None
        yield (
            str(record.get(columns.image) if name is None else name),
            [text for column in columns.captions for text in caption_list(record.get(column))],
        )


def one_each(captions: dict[str, list[str]], image_ids: Iterable[str], source: str | Path) -> dict[str, str]:
    """One caption for each id.

    What a file calls a picture need not be its id: of a path, the longest end that is an id counts, and a number, as
    COCO's results have it, stands for the one id whose name ends with it (`COCO_val2014_000000000139.jpg`).

    Raises:
        DataError: a picture has several captions.
    """
    ids = dict.fromkeys(image_ids)
    numbers: dict[int, str | None] = {}
    for image_id in ids:
        if digits := re.search(r"(?<!\d)(\d{1,18})(\.\w+)?$", image_id):  # no picture's number is longer
            numbers[int(digits[1])] = None if int(digits[1]) in numbers else image_id
    found: dict[str, str] = {}
    for name, texts in captions.items():
        parts = name.replace("\\", "/").split("/")
        ends = (end for end in (name, *("/".join(parts[at:]) for at in range(len(parts)))) if end in ids)
        of_number = numbers.get(int(name)) if name.isdecimal() and len(name) <= 18 else None
        image_id = next(ends, of_number or name)
        if len(texts) != 1 or image_id in found:
            raise DataError(f"'{source}' has several captions for '{image_id}'; keep the one that is to be scored")
        found[image_id] = texts[0]
    return found
