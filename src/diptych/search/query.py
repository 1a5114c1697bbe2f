"""What is asked: texts, pictures and rows of the index, wanted or not, each with a weight, as one vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from diptych.errors import ConfigError
from diptych.images.decode import Picture, Slice, decode, describe
from diptych.models.modalities import several_texts
from diptych.models.onnx.text_graph import TextEncoder

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

Kind = Literal["text", "picture", "row"]

# Half a negative text keeps what is wanted on top: benchmarks/search_compose.py.
NOT_WEIGHT = 0.5

_KINDS: tuple[Kind, ...] = ("text", "picture", "row")
_BOOST = re.compile(r"(?s)(.*\S)\^(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is asked for: a text, a picture, or a row of the index by its id; a negative weight is "not"."""

    kind: Kind
    value: str | Picture
    weight: float = 1.0

    def __str__(self) -> str:
        name = _name(self.kind, self.value)
        times = "" if abs(self.weight) in (1.0, NOT_WEIGHT) else f" × {abs(self.weight):g}"
        return f"{'not ' if self.weight < 0 else ''}{name}{times}"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, part by part. `Query.of("a dog", unwanted="grass")` is a short way to one.

    Raises:
        ConfigError: nothing is wanted, a text is empty or is not a string, or a weight is zero or not finite.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if not np.isfinite(part.weight) or part.weight == 0:
                raise ConfigError(f"the weight of {part} is {part.weight}; it must be a number other than 0")
            if part.kind == "text" and not isinstance(part.value, str):
                raise ConfigError(f"a text of the query is a {type(part.value).__name__}; it must be a string")
            if part.kind == "text" and not str(part.value).strip():
                raise ConfigError("a text of the query is empty; say in words what the picture shows")
        if not any(part.weight > 0 for part in self.parts):
            raise ConfigError("nothing is wanted; give a text, a picture or a row beside what is not wanted")

    @classmethod
    def of(
        cls,
        text: str | Sequence[str] = (),
        *,
        image: Picture | Sequence[Picture] = (),
        like: str | Sequence[str] = (),
        unwanted: str | Sequence[str] = (),
        unwanted_image: Picture | Sequence[Picture] = (),
        unwanted_like: str | Sequence[str] = (),
    ) -> Query:
        """A query of texts, pictures and ids of rows. A text may end in its weight, as in Lucene: `a dog^2`.

        What is unwanted counts half unless told, so that it turns the order of what is wanted and not the subject.
        """
        wanted = [_part("text", value) for value in several_texts(text)]
        wanted += [Part("picture", value) for value in _several(image)]
        wanted += [Part("row", value) for value in _several(like)]
        refused = [_part("text", value, NOT_WEIGHT) for value in several_texts(unwanted)]
        refused += [Part("picture", value, NOT_WEIGHT) for value in _several(unwanted_image)]
        refused += [Part("row", value, NOT_WEIGHT) for value in _several(unwanted_like)]
        return cls((*wanted, *(replace(part, weight=-part.weight) for part in refused)))

    @property
    def wanted(self) -> Query:
        """The query without what is not wanted."""
        return Query(tuple(part for part in self.parts if part.weight > 0))

    @property
    def rows(self) -> tuple[str, ...]:
        """The ids of the rows that are named."""
        return tuple(str(part.value) for part in self.parts if part.kind == "row")

    def asks_by(self, kind: Kind) -> bool:
        """Whether every wanted part is of this kind."""
        return all(part.kind == kind for part in self.wanted.parts)

    def __str__(self) -> str:
        return ", ".join(map(str, self.parts))


def compose(vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Several vectors as one: each made unit, then their weighted sum, made unit. (n, dim) to (dim,), float32.

    Negative weights subtract, as in rclip ("horse + stripes", "apple - fruit"); the last step keeps scores cosines.
    Example: (1, 0) with weight 3 and (0, 2) with weight -4 give (0.6, -0.8).

    Raises:
        ConfigError: the parts cancel each other out.
    """
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    summed = np.asarray(weights, np.float32) @ units.astype(np.float32)  # (dim,)
    length = float(np.linalg.norm(summed))
    if not length > 1e-6:
        raise ConfigError("what is wanted and what is not wanted cancel each other out; change one of them")
    return summed / length


def query_vector(
    query: Query,
    texts: Callable[[], TextEncoder],
    model: Callable[[], DualEncoder],
    row_vectors: Callable[[Sequence[str]], np.ndarray],
) -> np.ndarray:
    """The query as a unit vector: (dim,) float32.

    `texts` is called only if there is a text to embed, `model` only if there is a picture. `row_vectors` gives the
    vectors of rows by id: (rows, dim).

    Raises:
        ImageError: a picture of the query cannot be decoded.
    """
    vectors: dict[int, np.ndarray] = {}
    by_kind = {kind: [at for at, part in enumerate(query.parts) if part.kind == kind] for kind in _KINDS}
    if at := by_kind["text"]:
        vectors |= zip(at, texts().encode_texts([str(query.parts[index].value) for index in at]), strict=True)
    if at := by_kind["picture"]:
        vectors |= zip(at, _picture_vectors([query.parts[index].value for index in at], model()), strict=True)
    if at := by_kind["row"]:
        vectors |= zip(at, row_vectors([str(query.parts[index].value) for index in at]), strict=True)
    stacked = np.stack([vectors[index] for index in range(len(query.parts))])
    return compose(stacked, [part.weight for part in query.parts])


def _picture_vectors(pictures: Sequence[str | Picture], model: DualEncoder) -> np.ndarray:
    files = [Path(picture).expanduser() if isinstance(picture, str) else picture for picture in pictures]
    return model.encode_images([decode(file, min_side=model.image_size) for file in files])


def _part(kind: Kind, value: str, usual: float = 1.0) -> Part:
    """A part of a text that may end in `^weight`."""
    if found := _BOOST.fullmatch(value):
        return Part(kind, found[1], float(found[2]) or 0.0)
    return Part(kind, value, usual)


def _several(values: Any) -> list[Any]:
    """One value, or several, as a list."""
    return [values] if isinstance(values, str | bytes | Path | Slice) else list(values)


def _name(kind: Kind, value: str | Picture) -> str:
    if not isinstance(value, str):
        return describe(value)
    return f"“{value}”" if kind == "text" else f"the picture '{value}'"
