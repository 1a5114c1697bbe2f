"""Many pairs of a table, each line a picture and a text, with the probability of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.formats.read import Pictures
from diptych.data.formats.tables import records, rows
from diptych.errors import DataError
from diptych.images.decode import Picture
from diptych.matching.matcher import Matcher
from diptych.models.embedding_cache import decode_all
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_LINES = 64  # decoded and judged at once


@dataclass(frozen=True)
class MatchTable:
    """The lines of a table, in order: names of pictures, the pictures, and the texts put to them."""

    names: list[str]
    pictures: list[Picture]
    texts: list[str]


def read_match_table(path: str | Path) -> MatchTable:
    """Read a table with the columns image and caption; a line with several captions is a line for each.

    Raises:
        DataError: the file or a column is missing, or it holds no line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; give a table with the columns image and caption")
    base = path.absolute().parent
    lines = [(row, text) for row in rows(records(path), Pictures.around(base, base), None) for text in row.captions]
    if not lines:
        raise DataError(f"'{path}' holds no pair; it needs the columns image and caption, and a line for each pair")
    return MatchTable([row.image_id for row, _ in lines], [row.image for row, _ in lines], [text for _, text in lines])


def match_table(
    matcher: Matcher, table: MatchTable, *, prior: float | None = None, progress: Progress = silent
) -> np.ndarray:
    """The probability of each line: (lines,) float64, NaN where the picture cannot be decoded or the text is empty."""
    found = np.full(len(table.texts), np.nan)
    starts = range(0, len(table.texts), _LINES)

    def load(start: int) -> tuple[list[int], list, list[str]]:
        lines = [at for at in range(start, min(start + _LINES, len(table.texts))) if table.texts[at].strip()]
        places = list(dict.fromkeys(table.pictures[at] for at in lines))
        decoded, good = decode_all(places, matcher.encoder.image_size)
        images = dict(zip(itertools.compress(places, good), decoded, strict=True))
        lines = [at for at in lines if table.pictures[at] in images]
        return lines, [images[table.pictures[at]] for at in lines], [table.texts[at] for at in lines]

    for lines, images, texts in progress(prefetch(starts, load), len(starts), "matching"):
        found[lines] = matcher.predict(images, texts, prior=prior)
    return found
