"""Labelled pairs: images and texts with a label that says whether they match."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.data.formats.encoding import clean
from diptych.data.formats.read import ImagePaths, settled
from diptych.data.formats.tables import plain_name, records, rows
from diptych.data.joins import JoinReport, Tally
from diptych.data.pairs import Pairs, Row
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.decode import readable_text

LABEL_COLUMNS = ("label", "match", "matches", "ismatch", "target", "y")
LABELS: dict[str, bool] = {
    **dict.fromkeys(("1", "true", "yes", "match"), True),
    **dict.fromkeys(("0", "false", "no", "no-match", "no_match", "no match", "nomatch"), False),
}
"""The accepted spellings of a label, in any case; 1 and 0 also with decimals, as in `1.0`."""
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Labelled:
    """The texts, the row of each text's image in `images`, and the labels: (pairs,) each.

    `images` has one row per image, whose captions are all of its texts, matching or not. Its notes count the pairs
    that the table holds twice, or with both labels.
    """

    images: Pairs
    texts: list[str]
    rows: NDArray[np.int64]
    labels: NDArray[np.bool_]

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
        first = next(records(path, LABEL_COLUMNS), None)
    except DataError:
        return False
    return first is not None and _label_column(first[1]) is not None


def read_labelled_pairs(source: str | Path) -> Labelled:
    """Read a table with the columns image, caption and label, as CSV, TSV, JSON Lines, JSON or Parquet.

    A label is one of `LABELS`: 1, true, yes or match; or 0, false, no or no-match. Images are resolved as `read_pairs`
    does.

    Raises:
        DataError: a column is missing, or a label has another value; the message names the file and line.
    """
    path = Path(source)
    texts: list[str] = []
    labels: list[bool] = []
    ids: list[str] = []
    notes = ReadingNotes()
    images = ImagePaths.around(path.absolute().parent, path.absolute().parent, notes=notes)

    def with_labels() -> Iterator[tuple[str, Mapping[str, object]]]:
        for where, record in records(path, LABEL_COLUMNS):
            labels.append(_label(record, where))
            yield where, record

    def read() -> Iterator[Row]:
        for row in rows(with_labels(), images, None):
            if len(row.captions) != 1:
                raise DataError(
                    f"'{path}': a line of image '{row.image_id}' has {len(row.captions)} texts; it must have one"
                )
            texts.append(row.captions[0])
            ids.append(row.image_id)
            yield row

    pairs = settled(read(), notes)
    if not len(pairs):
        raise DataError(f"'{path}' contains no labelled pairs; it needs the columns image, caption and label")
    _note_repeated(ids, texts, labels, notes)
    places = {image_id: row for row, image_id in enumerate(pairs.image_ids)}
    rows_of_texts = np.array([places[readable_text(name)] for name in ids], np.int64)
    return Labelled(pairs.with_notes(notes), texts, rows_of_texts, np.array(labels, bool))


def _note_repeated(ids: list[str], texts: list[str], labels: list[bool], notes: ReadingNotes) -> None:
    """Note the pairs that occur twice, and those that are labelled as a match and as none."""
    known: dict[tuple[str, str], bool] = {}
    for image_id, text, label in zip(ids, texts, labels, strict=True):
        first = known.setdefault((image_id, text), label)
        if first != label:
            notes.add("contradictory_labels", image_id, f"labelled as a match and as none: {text}")
    if len(known) < len(ids):
        repeated = [image_id for (image_id, _), count in Counter(zip(ids, texts, strict=True)).items() if count > 1]
        notes.add_join(JoinReport("images of labelled pairs", "their texts", repeated=Tally.of(repeated)))


def _label(record: Mapping[str, object], where: str) -> bool:
    column = _label_column(record)
    if column is None:
        raise DataError(f"{where} has no label column, only {', '.join(record)}; call one column 'label'")
    text = " ".join(clean(record[column]).lower().split())
    label = LABELS.get(_DECIMALS.sub(r"\1", text))
    if label is None:
        raise DataError(f"{where}: invalid label '{record[column]}'; use one of: {', '.join(LABELS)}")
    return label


_DECIMALS = re.compile(r"^([01])\.0*$")


def _label_column(names: Mapping[str, object]) -> str | None:
    plain = {plain_name(name): name for name in names}
    return next((plain[name] for name in LABEL_COLUMNS if name in plain), None)
