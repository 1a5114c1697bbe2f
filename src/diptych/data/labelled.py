"""Labelled pairs: images and texts with a label that says whether they match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.formats.encoding import clean
from diptych.data.formats.read import ImagePaths
from diptych.data.formats.tables import records, rows
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError

LABEL_COLUMNS = ("label", "match", "matches", "ismatch", "target", "y")
LABELS = dict.fromkeys(("1", "match", "true", "yes"), True) | dict.fromkeys(("0", "nomatch", "false", "no"), False)
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Labelled:
    """The texts, the row of each text's image in `images`, and the labels: (pairs,) each.

    `images` has one row per image, whose captions are all of its texts, matching or not.
    """

    images: Pairs
    texts: list[str]
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, images: Pairs) -> Labelled:
        """The pairs of a subset of the images, such as a split."""
        places = {image_id: row for row, image_id in enumerate(images.image_ids)}
        ids = self.images.image_ids
        kept = [pair for pair, row in enumerate(self.rows) if ids[row] in places]
        return Labelled(
            images,
            [self.texts[pair] for pair in kept],
            np.array([places[ids[self.rows[pair]]] for pair in kept], np.int64),
            self.labels[kept],
        )


def is_labelled(source: str | Path) -> bool:
    """Whether `source` is a table with a label column."""
    path = Path(source)
    if path.suffix.lower() not in _TABLES or not path.is_file():
        return False
    try:
        first = next(records(path), None)
    except DataError:
        return False
    return first is not None and _label_column(first[1]) is not None


def read_labelled_pairs(source: str | Path) -> Labelled:
    """Read a table with the columns image, caption and label, as CSV, TSV, JSON Lines, JSON or Parquet.

    A label is 1, match, true or yes; or 0, no-match, false or no. Images are resolved as `read_pairs` does.

    Raises:
        DataError: a column is missing, or a label has another value; the message names the file and line.
    """
    path = Path(source)
    texts, labels, ids = [], [], []

    def with_labels() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for where, record in records(path):
            labels.append(_label(record, where))
            yield where, record

    def read() -> Iterator[Row]:
        for row in rows(with_labels(), ImagePaths.around(path.absolute().parent, path.absolute().parent), None):
            if len(row.captions) != 1:
                raise DataError(
                    f"'{path}': a line of image '{row.image_id}' has {len(row.captions)} texts; it must have one"
                )
            texts.append(row.captions[0])
            ids.append(row.image_id)
            yield row

    images = Pairs.from_rows(read())
    if not len(images):
        raise DataError(f"'{path}' contains no labelled pairs; it needs the columns image, caption and label")
    places = {image_id: row for row, image_id in enumerate(images.image_ids)}
    return Labelled(images, texts, np.array([places[name] for name in ids], np.int64), np.array(labels, bool))


def _label(record: Mapping[str, Any], where: str) -> bool:
    column = _label_column(record)
    if column is None:
        raise DataError(f"{where} has no label column, only {', '.join(record)}; call one column 'label'")
    plain = _plain(clean(record[column]))
    if plain not in LABELS:
        raise DataError(f"{where}: invalid label '{record[column]}'; use match, no-match, 1, 0, true, false, yes or no")
    return LABELS[plain]


def _label_column(names: Mapping[str, Any]) -> str | None:
    plain = {_plain(name): name for name in names}
    return next((plain[name] for name in LABEL_COLUMNS if name in plain), None)


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()
