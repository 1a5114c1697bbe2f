"""Labelled pairs: pictures with texts of which somebody said whether they match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.formats.encoding import clean
from diptych.data.formats.read import Pictures
from diptych.data.formats.tables import records, rows
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError

LABEL_COLUMNS = ("label", "match", "matches", "ismatch", "target", "y")
LABELS = dict.fromkeys(("1", "match", "true", "yes"), True) | dict.fromkeys(("0", "nomatch", "false", "no"), False)
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Labelled:
    """(pairs,) texts, the row of each one's picture in `pictures`, and whether they match.

    `pictures` has a row for each picture, its captions all the texts that were put to it, matching or not.
    """

    pictures: Pairs
    texts: list[str]
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, pictures: Pairs) -> Labelled:
        """The pairs of some of the pictures, such as those of a split."""
        places = {image_id: row for row, image_id in enumerate(pictures.image_ids)}
        ids = self.pictures.image_ids
        kept = [at for at, row in enumerate(self.rows) if ids[row] in places]
        return Labelled(
            pictures,
            [self.texts[at] for at in kept],
            np.array([places[ids[self.rows[at]]] for at in kept], np.int64),
            self.labels[kept],
        )


def is_labelled(source: str | Path) -> bool:
    """Whether this is a table with a column of labels beside pictures and texts."""
    path = Path(source)
    if path.suffix.lower() not in _TABLES or not path.is_file():
        return False
    try:
        first = next(records(path), None)
    except DataError:
        return False
    return first is not None and _label_column(first[1]) is not None


def read_labelled_pairs(source: str | Path) -> Labelled:
    """Read a table with the columns image, caption and label: CSV, TSV, JSON lines, JSON or Parquet of paths.

    A label is 1, match, true or yes, or 0, no-match, false or no. Pictures are looked for as `read_pairs` does.

    Raises:
        DataError: there is no such column, or a label is none of these; the message names file and line.
    """
    path = Path(source)
    texts, labels, ids = [], [], []

    def noted() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for where, record in records(path):
            labels.append(_label(record, where))
            yield where, record

    def read() -> Iterator[Row]:
        for row in rows(noted(), Pictures.around(path.absolute().parent, path.absolute().parent), None):
            if len(row.captions) != 1:
                raise DataError(f"'{path}': a line of picture '{row.image_id}' has {len(row.captions)} texts; give one")
            texts.append(row.captions[0])
            ids.append(row.image_id)
            yield row

    pictures = Pairs.from_rows(read())
    if not len(pictures):
        raise DataError(f"'{path}' holds no labelled pair; it needs the columns image, caption and label")
    places = {image_id: row for row, image_id in enumerate(pictures.image_ids)}
    return Labelled(pictures, texts, np.array([places[name] for name in ids], np.int64), np.array(labels, bool))


def _label(record: Mapping[str, Any], where: str) -> bool:
    column = _label_column(record)
    if column is None:
        raise DataError(f"{where} has no label: it has {', '.join(record)}; name one column label")
    plain = _plain(clean(record[column]))
    if plain not in LABELS:
        raise DataError(f"{where}: label '{record[column]}' is none of match, no-match, 1, 0, true, false, yes, no")
    return LABELS[plain]


def _label_column(names: Mapping[str, Any]) -> str | None:
    plain = {_plain(name): name for name in names}
    return next((plain[name] for name in LABEL_COLUMNS if name in plain), None)


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()
