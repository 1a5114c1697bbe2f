"""The first hits of a text put in the order of a matcher, which looks at each picture again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import ConfigError, ImageError
from diptych.images.decode import decode
from diptych.images.roots import ANYWHERE, Roots
from diptych.runtime.background import prefetch
from diptych.search.query import Query
from diptych.search.results import Hit

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher


def text_to_match(query: Query) -> str:
    """The one text that a query asks by.

    Raises:
        ConfigError: it asks by pictures, by several texts, or by what is not wanted.
    """
    if len(query.parts) != 1 or query.parts[0].kind != "text":
        raise ConfigError("re-ranking judges pictures by one text; leave out rerank, or ask by a single text")
    return str(query.parts[0].value)


def rerank_hits(
    hits: Sequence[Hit],
    text: str,
    matcher: Matcher,
    first: int,
    roots: Roots = ANYWHERE,
    lock: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - it has no state
) -> list[Hit]:
    """The `first` hits by the probability that they match `text`, best first; the others after them, as they were.

    A picture that is gone, broken or outside `roots` comes after those that were judged. `lock` is held while the
    matcher runs, and not while pictures are decoded.
    """
    pictures = list(prefetch(hits[:first], lambda hit: _picture(hit, matcher.encoder.image_size, roots)))
    there = [(hit, picture) for hit, picture in zip(hits, pictures, strict=False) if picture is not None]
    lost = [hit for hit, picture in zip(hits, pictures, strict=False) if picture is None]
    with lock:
        found = matcher.predict([picture for _, picture in there], [text] * len(there))
    judged = [replace(hit, match=float(p)) for (hit, _), p in zip(there, found, strict=True)]
    return [*sorted(judged, key=lambda hit: -(hit.match or 0.0)), *lost, *hits[first:]]


def _picture(hit: Hit, min_side: int | None, roots: Roots) -> Image.Image | None:
    try:
        return decode(read_at(hit.path, roots), min_side=min_side)
    except ImageError:
        return None
