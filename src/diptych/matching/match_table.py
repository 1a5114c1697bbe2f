"""Matching tables: image-text pairs from a file, and the probability of each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.data.formats.parquet import parquet_rows
from diptych.data.formats.read import ImagePaths, settled_rows
from diptych.data.formats.tables import Columns, records, rows
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError, ImageError
from diptych.images.decode import ImageSource, decode
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher

_BLOCK = 64  # pairs decoded and matched at once


@dataclass(frozen=True)
class MatchTable:
    """The pairs of a table, in its order.

    Attributes:
        names: Names of the images as the table has them.
        images: The images.
        texts: The text of each pair.
        records: The row of each pair as the file has it: column -> value.
        image_column: Name of the column of images.
        text_column: Name of the column of texts; of several, the first.
        columns: Names of all columns in the order of the file; of several columns of texts, only the first.
        notes: What was noticed about the names of the images.
    """

    names: list[str]
    images: list[ImageSource]
    texts: list[str]
    records: list[Mapping[str, object]]
    image_column: str = "image"
    text_column: str = "caption"
    columns: tuple[str, ...] = ("image", "caption")
    notes: ReadingNotes = field(default_factory=ReadingNotes)

    def rows(self) -> Iterator[dict[str, str]]:
        """Each pair as column -> cell, with the text of the pair in the column of texts."""
        for name, text, record in zip(self.names, self.texts, self.records, strict=True):
            image = record.get(self.image_column)
            own = {self.image_column: image if isinstance(image, str) else name, self.text_column: text}
            yield {column: own[column] if column in own else _cell(record.get(column)) for column in self.columns}

    def failures(self, values: NDArray[np.float64]) -> dict[str, list[str]]:
        """Why pairs have no value: reason -> the images. The reasons are those of `ImageError`, and `no text`."""
        reasons: dict[str, list[str]] = {}
        for line in np.flatnonzero(np.isnan(values)):
            reason = _reason(self.images[line]) if self.texts[line].strip() else "no text"
            reasons.setdefault(reason, []).append(self.names[line])
        return reasons


def read_match_table(path: str | Path) -> MatchTable:
    """Read a table with the columns `image` and `caption`; a row with several captions gives a pair for each.

    Raises:
        DataError: The file or a column is missing, or it holds no pair.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give a table with the columns image and caption (or prompt)")
    base = path.absolute().parent
    kept: list[tuple[str, Mapping[str, object]]] = []
    notes = ReadingNotes()
    paths = ImagePaths.around(base, base, notes=notes)
    read = list(settled_rows(rows(_keep(_records(path), kept), paths, None), notes))
    pairs = [(row, text, record) for row, (_, record) in zip(read, kept, strict=True) for text in row.captions]
    if not pairs:
        raise DataError(f"'{path}' contains no pairs; it needs the columns image and caption, and a line for each pair")
    where, first = kept[0]
    found = Columns.find(first, where)
    columns = dict.fromkeys(column for _, record in kept for column in record)
    return MatchTable(
        [row.image_id for row, *_ in pairs],
        [row.image for row, *_ in pairs],
        [text for _, text, _ in pairs],
        [record for *_, record in pairs],
        found.image,
        found.captions[0],
        tuple(column for column in columns if column not in found.captions[1:]),
        notes,
    )


def merge_columns(tables: Sequence[MatchTable]) -> tuple[str, ...]:
    """The columns of several tables in order, with the images and texts of all under the names of the first table."""
    return tuple(dict.fromkeys(_shared(column, table, tables[0]) for table in tables for column in table.columns))


def merge_rows(tables: Sequence[MatchTable]) -> Iterator[dict[str, str]]:
    """The rows of several tables, one after another, under the columns of `merge_columns`."""
    for table in tables:
        for row in table.rows():
            yield {_shared(column, table, tables[0]): cell for column, cell in row.items()}


def free_name(name: str, columns: Collection[str]) -> str:
    """A name for a new column: `name`, or with a number if the table has a column of that name.

    >>> free_name("score", ["image", "score"])
    'score_2'
    """
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in columns)


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a table with all of their columns: a data set needs only some of a Parquet file's."""
    if path.suffix.lower() == ".parquet":
        return ((f"'{path}', row {number}", record) for number, record in parquet_rows(path, set))
    return records(path)


def _keep(
    table: Iterable[tuple[str, Mapping[str, object]]], kept: list[tuple[str, Mapping[str, object]]]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a table, each put into `kept` before it is yielded."""
    for where, record in table:
        kept.append((where, record))
        yield where, record


def _shared(column: str, table: MatchTable, first: MatchTable) -> str:
    return {table.image_column: first.image_column, table.text_column: first.text_column}.get(column, column)


def _cell(value: object) -> str:
    """A value of a table as the text of a cell: nested values as JSON, nothing for a missing or binary one."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bytes):
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _reason(image: ImageSource) -> str:
    try:
        decode(image)
    except ImageError as error:
        return error.reason
    return "undecodable"


def match_table(
    matcher: Matcher, table: MatchTable, *, prior: float | None = None, progress: Progress = silent
) -> NDArray[np.float64]:
    """The probability of each pair: (pairs,) in [0, 1], NaN for an undecodable image or an empty text.

    Raises:
        ConfigError: The prior is outside (0, 1).
    """
    from diptych.models.embedding_cache import decode_all

    probabilities = np.full(len(table.texts), np.nan)
    starts = range(0, len(table.texts), _BLOCK)

    def load(start: int) -> tuple[list[int], list[Image.Image], list[str]]:
        block = range(start, min(start + _BLOCK, len(table.texts)))
        lines = [line for line in block if table.texts[line].strip()]
        distinct = list(dict.fromkeys(table.images[line] for line in lines))
        decoded, good = decode_all(distinct, matcher.encoder.image_size)
        images = dict(zip(itertools.compress(distinct, good), decoded, strict=True))
        lines = [line for line in lines if table.images[line] in images]
        return lines, [images[table.images[line]] for line in lines], [table.texts[line] for line in lines]

    for lines, images, texts in progress(prefetch(starts, load), len(starts), "matching"):
        probabilities[lines] = matcher.predict(images, texts, prior=prior)
    return probabilities
