"""Limits on the structure of encoded images, shared by the readers of each format's headers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

MAX_PARTS = 65_536
"""Limit of JPEG segments, PNG chunks, GIF blocks before the first frame, TIFF tags or strips, and AVIF boxes."""


class CostlyError(ValueError):
    """The structure of an image makes it cost more to decode than any real one."""


def limit(what: str, count: int, most: int) -> None:
    """Check a number of parts of an image.

    Raises:
        CostlyError: `count` is greater than `most`.
    """
    if count > most:
        raise CostlyError(f"it has more than {most:,} {what}, the limit; save it again with an image editor")


def count(items: Iterator[object]) -> int:
    """The number of items, or `MAX_PARTS + 1` if there are more."""
    return sum(1 for _ in islice(items, MAX_PARTS + 1))
