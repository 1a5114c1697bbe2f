"""Caption files: captions by people or by any model, read by image id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.data.formats.json_values import entries, is_object
from diptych.data.formats.tables import Columns, caption_list, records
from diptych.errors import DataError


def read_caption_file(path: str | Path) -> dict[str, list[str]]:
    """The captions of each image, in the file's order.

    The file is a JSON object (`{"1.jpg": "a dog", ...}`, or with lists of captions), COCO's list of results
    (`[{"image_id": ..., "caption": ...}, ...]`), or a table with columns for image and caption (CSV, TSV, JSON lines),
    such as the output of `diptych caption`. Rows with an error instead of a caption are skipped.

    Raises:
        DataError: The file or a column is missing, or it holds no caption.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; give one with a caption for each picture")
    rows: Iterable[tuple[int | str, Any]]
    rows = entries(path) if path.suffix.lower() == ".json" and is_object(path) else _rows(path)
    captions: dict[str, list[str]] = {}
    for name, texts in rows:
        captions.setdefault(str(name), []).extend(caption_list(texts))
    if not captions:
        raise DataError(f"'{path}' holds no caption; it needs a picture and a caption a line")
    return captions


def _rows(path: Path) -> Iterable[tuple[str, list[str]]]:
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
    """One caption for each image id.

    The names in a file need not be ids: a path stands for its longest suffix that is an id, and a number, as in COCO's
    results, for the one id whose name ends with it (`COCO_val2014_000000000139.jpg`).

    Raises:
        DataError: An image has several captions.
    """
    ids = dict.fromkeys(image_ids)
    ids_by_number: dict[int, str | None] = {}
    for image_id in ids:
        if digits := re.search(r"(?<!\d)(\d{1,18})(\.\w+)?$", image_id):  # image numbers have at most 18 digits
            ids_by_number[int(digits[1])] = None if int(digits[1]) in ids_by_number else image_id
    chosen: dict[str, str] = {}
    for name, texts in captions.items():
        parts = name.replace("\\", "/").split("/")
        suffixes = (end for end in (name, *("/".join(parts[i:]) for i in range(len(parts)))) if end in ids)
        numbered = ids_by_number.get(int(name)) if name.isdecimal() and len(name) <= 18 else None
        image_id = next(suffixes, numbered or name)
        if len(texts) != 1 or image_id in chosen:
            raise DataError(f"'{source}' has several captions for '{image_id}'; keep the one that is to be scored")
        chosen[image_id] = texts[0]
    return chosen
