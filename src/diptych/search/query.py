"""Queries: texts, images and rows of the index, wanted or unwanted and weighted, combined into one embedding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.errors import ConfigError
from diptych.images.decode import ImageSource, Slice, decode, describe
from diptych.images.source import ImageLike, encoded
from diptych.models.cosine import normalize
from diptych.models.modalities import as_texts
from diptych.models.onnx.text_graph import TextEncoder

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

Kind = Literal["text", "image", "row"]

UNWANTED_WEIGHT = 0.5
"""Usual weight of an unwanted part: at half weight what is wanted stays on top (benchmarks/search_compose.py)."""

_KINDS: tuple[Kind, ...] = ("text", "image", "row")
_BOOST = re.compile(r"(?s)(.*\S)\^(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Part:
    """A text, an image, or a row of the index by its id or path. A part with a negative weight is unwanted."""

    kind: Kind
    value: str | ImageSource
    weight: float = 1.0

    def __str__(self) -> str:
        name = _name(self.kind, self.value)
        times = "" if abs(self.weight) in (1.0, UNWANTED_WEIGHT) else f" × {abs(self.weight):g}"
        return f"{'not ' if self.weight < 0 else ''}{name}{times}"


@dataclass(frozen=True, slots=True)
class Query:
    """The parts of a query. `Query.of("a dog", unwanted="grass")` makes one from texts, images and rows.

    Raises:
        ConfigError: no part is wanted, a text is empty or not a string, or a weight is zero or not finite.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if not np.isfinite(part.weight) or part.weight == 0:
                raise ConfigError(f"the weight of {part} is {part.weight}; it must be a number other than 0")
            if part.kind == "text" and not isinstance(part.value, str):
                raise ConfigError(f"a text of the query is a {type(part.value).__name__}; it must be a string")
            if part.kind == "text" and not str(part.value).strip():
                raise ConfigError("a text of the query is empty; describe what the images should show")
        if not any(part.weight > 0 for part in self.parts):
            if self.parts:
                raise ConfigError("the query only leaves things out; add a text or an image to search for")
            raise ConfigError("the query is empty; give a text or an image")

    @classmethod
    def of(
        cls,
        text: str | Sequence[str] = (),
        *,
        image: ImageLike | Sequence[ImageLike] = (),
        like: str | Sequence[str] = (),
        unwanted: str | Sequence[str] = (),
        unwanted_image: ImageLike | Sequence[ImageLike] = (),
        unwanted_like: str | Sequence[str] = (),
    ) -> Query:
        """A query of texts, images, and rows (`like`) by id or path.

        A text may end in a weight, as in Lucene: `a dog^2`. Unwanted parts have half weight unless they name one.

        Raises:
            ConfigError: as for `Query`.
        """
        wanted = [_part("text", value) for value in as_texts(text)]
        wanted += [Part("image", _encoded(value)) for value in _several(image)]
        wanted += [Part("row", value) for value in _several(like)]
        refused = [_part("text", value, UNWANTED_WEIGHT) for value in as_texts(unwanted)]
        refused += [Part("image", _encoded(value), UNWANTED_WEIGHT) for value in _several(unwanted_image)]
        refused += [Part("row", value, UNWANTED_WEIGHT) for value in _several(unwanted_like)]
        return cls((*wanted, *(replace(part, weight=-part.weight) for part in refused)))

    @property
    def wanted(self) -> Query:
        """The query without its unwanted parts."""
        return Query(tuple(part for part in self.parts if part.weight > 0))

    @property
    def rows(self) -> tuple[str, ...]:
        """The ids or paths of its rows."""
        return tuple(str(part.value) for part in self.parts if part.kind == "row")

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts, wanted or not."""
        return tuple(str(part.value) for part in self.parts if part.kind == "text")

    @property
    def is_text(self) -> bool:
        """Whether all wanted parts are texts."""
        return all(part.kind == "text" for part in self.wanted.parts)

    def __str__(self) -> str:
        return ", ".join(map(str, self.parts))


QueryLike = Query | ImageLike
"""A query; a string is a text, and anything else (path, slice of a file, encoded bytes, PIL image) is an image."""


def as_query(query: QueryLike) -> Query:
    """A `QueryLike` as a `Query`.

    Raises:
        ConfigError: the text is empty.
    """
    if isinstance(query, Query):
        return query
    return Query.of(query) if isinstance(query, str) else Query.of(image=query)


def compose(embeddings: NDArray[np.floating], weights: Sequence[float]) -> NDArray[np.float32]:
    """The weighted sum of normalized embeddings, normalized: (n, dim) to (dim,).

    Negative weights subtract, as in rclip ("horse + stripes", "apple - fruit").

    Example: (1, 0) with weight 3 and (0, 2) with weight -4 give (0.6, -0.8).

    Raises:
        ConfigError: the parts cancel each other out.
    """
    total = np.asarray(weights, np.float32) @ normalize(embeddings).astype(np.float32)  # (dim,)
    norm = float(np.linalg.norm(total))
    if not norm > 1e-6:
        raise ConfigError("the wanted and unwanted parts of the query cancel each other out; change one of them")
    return total / norm


def query_embedding(
    query: Query,
    text_encoder: Callable[[], TextEncoder],
    model: Callable[[], DualEncoder],
    row_embeddings: Callable[[Sequence[str]], NDArray[np.floating]],
) -> NDArray[np.float32]:
    """The query as a unit embedding, (dim,).

    `text_encoder` is called only if there are texts to embed, `model` only if there are images. `row_embeddings`
    returns the embeddings of rows by id, (rows, dim).

    Raises:
        ConfigError: the parts cancel each other out.
        ImageError: an image of the query cannot be decoded.
    """
    embeddings: dict[int, NDArray[np.floating]] = {}
    for kind in _KINDS:
        places = [place for place, part in enumerate(query.parts) if part.kind == kind]
        values = [query.parts[place].value for place in places]
        if not values:
            continue
        if kind == "text":
            encoded_parts = text_encoder().encode_texts(list(map(str, values)))
        elif kind == "image":
            encoded_parts = _image_embeddings(values, model())
        else:
            encoded_parts = row_embeddings(list(map(str, values)))
        embeddings |= zip(places, encoded_parts, strict=True)
    stacked = np.stack([embeddings[place] for place in range(len(query.parts))])  # (parts, dim)
    return compose(stacked, [part.weight for part in query.parts])


def _image_embeddings(images: Sequence[str | ImageSource], model: DualEncoder) -> NDArray[np.float32]:
    files = [Path(image).expanduser() if isinstance(image, str) else image for image in images]
    return model.encode_images([decode(file, min_side=model.image_size) for file in files])


def _part(kind: Kind, value: str, weight: float = 1.0) -> Part:
    """A part of a text that may end in `^weight`."""
    if match := _BOOST.fullmatch(value):
        return Part(kind, match[1], float(match[2]) or 0.0)
    return Part(kind, value, weight)


def _several(values: Any) -> list[Any]:
    """One value, or several, as a list."""
    return [values] if isinstance(values, str | bytes | Path | Slice | Image.Image) else list(values)


def _encoded(image: ImageLike) -> str | ImageSource:
    return encoded(image) if isinstance(image, Image.Image) else image


def _name(kind: Kind, value: str | ImageSource) -> str:
    if not isinstance(value, str):
        return f"like {describe(value)}"
    return f"“{value}”" if kind == "text" else f"like '{value}'"
