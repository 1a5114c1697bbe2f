"""Matching tables: image-text pairs from a file, and the probability of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.data.formats.read import ImagePaths, settled_rows
from diptych.data.formats.tables import records, rows
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.decode import ImageSource
from diptych.matching.matcher import Matcher
from diptych.models.embedding_cache import decode_all
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_BLOCK = 64  # pairs decoded and matched at once


@dataclass(frozen=True)
class MatchTable:
    """The pairs of a table, in its order.

    Attributes:
        names: Names of the images as the table has them.
        images: The images.
        texts: The text of each pair.
        notes: What was noticed about the names of the images.
    """

    names: list[str]
    images: list[ImageSource]
    texts: list[str]
    notes: ReadingNotes = field(default_factory=ReadingNotes)


def read_match_table(path: str | Path) -> MatchTable:
    """Read a table with the columns `image` and `caption`; a row with several captions gives a pair for each.

    Raises:
        DataError: The file or a column is missing, or it holds no pair.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; give a table with the columns image and caption")
    base = path.absolute().parent
    notes = ReadingNotes()
    read = settled_rows(rows(records(path), ImagePaths.around(base, base, notes=notes), None), notes)
    pairs = [(row, text) for row in read for text in row.captions]
    if not pairs:
        raise DataError(f"'{path}' holds no pair; it needs the columns image and caption, and a line for each pair")
    return MatchTable(
        [row.image_id for row, _ in pairs], [row.image for row, _ in pairs], [text for _, text in pairs], notes
    )


def match_table(
    matcher: Matcher, table: MatchTable, *, prior: float | None = None, progress: Progress = silent
) -> NDArray[np.float64]:
    """The probability of each pair: (pairs,) in [0, 1], NaN for an undecodable image or an empty text.

    Raises:
        ConfigError: The prior is outside (0, 1).
    """
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
