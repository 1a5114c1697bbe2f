"""What a service answers, wherever it runs: `Service` in this process and `Client` over HTTP give the same types."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

KEEP = 0.95
"""`keep` of a search when nothing is said: `index.cutoff.KEEP`, whose module takes seconds to import."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors, float32: `image_vectors` (pictures, dim) and `text_vectors` (texts, dim), in one space."""

    image_vectors: np.ndarray
    text_vectors: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """The cosine of each picture and each text: (pictures, texts)."""
        return self.image_vectors @ self.text_vectors.T


@dataclass(frozen=True, slots=True)
class Alternative:
    """A caption that a captioner wrote: `score` is its mean log-probability a token, `confidence` a matcher's P(match).

    `confidence` is None where no matcher looked.
    """

    text: str
    score: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A caption that was given: its cosine with the picture, and its probability among all that were given."""

    text: str
    similarity: float
    probability: float


@dataclass(frozen=True, slots=True)
class GeneratedPrompt:
    """A prompt, and how near it is to what was predicted of the picture."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """What a picture shows: the best caption and its confidence, all that were written, and given ones in their order.

    `confidence` is the matcher's probability that picture and caption belong together; None without a matcher.
    """

    best: str
    confidence: float | None
    alternatives: tuple[Alternative, ...]
    candidates: tuple[Ranked, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        return {**told, "alternatives": list(told["alternatives"]), "candidates": list(told["candidates"])}
