"""Re-ranking: the first hits of a text query, ordered by a matcher's probability that image and text match."""

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
    """The text of a query that consists of one text.

    Raises:
        ConfigError: it has images, several texts, or unwanted parts.
    """
    if len(query.parts) != 1 or query.parts[0].kind != "text":
        raise ConfigError("`rerank` works with exactly one text; leave it out, or search by a single text")
    return str(query.parts[0].value)


def rerank_hits(
    hits: Sequence[Hit],
    text: str,
    matcher: Matcher,
    first: int,
    roots: Roots = ANYWHERE,
    lock: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - it has no state
) -> list[Hit]:
    """The `first` hits by descending P(match) with `text`, then the other hits in their order.

    Hits whose image is gone, broken or outside `roots` have no `match` and follow those that were scored. `lock` is
    held while the matcher runs, but not while images are decoded.
    """
    images = list(prefetch(hits[:first], lambda hit: _image(hit, matcher.encoder.image_size, roots)))
    scored = [(hit, image) for hit, image in zip(hits, images, strict=False) if image is not None]
    unreadable = [hit for hit, image in zip(hits, images, strict=False) if image is None]
    with lock:
        probabilities = matcher.predict([image for _, image in scored], [text] * len(scored))
    matched = [replace(hit, match=float(p)) for (hit, _), p in zip(scored, probabilities, strict=True)]
    return [*sorted(matched, key=lambda hit: -(hit.match or 0.0)), *unreadable, *hits[first:]]


def _image(hit: Hit, min_side: int | None, roots: Roots) -> Image.Image | None:
    try:
        return decode(read_at(hit.path, roots), min_side=min_side)
    except ImageError:
        return None
