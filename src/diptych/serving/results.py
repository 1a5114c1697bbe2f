"""Result types of a service: `Service` in this process and `Client` over HTTP return the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["encoder", "captioner", "matcher", "prompter"]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit embeddings, float32: `image_vectors` (images, dim) and `text_vectors` (texts, dim), in one space."""

    image_vectors: NDArray[np.float32]
    text_vectors: NDArray[np.float32]

    @property
    def similarity(self) -> NDArray[np.float32]:
        """The cosine of each image and each text: (images, texts), in [-1, 1]."""
        return self.image_vectors @ self.text_vectors.T


@dataclass(frozen=True, slots=True)
class Alternative:
    """A generated caption: `score` is its mean log-probability per token, at most 0.

    `confidence` is the matcher's P(match) in [0, 1]; None without a matcher.
    """

    text: str
    score: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate caption: its cosine with the image, and its probability among all candidates, which sum to 1."""

    text: str
    similarity: float
    probability: float


@dataclass(frozen=True, slots=True)
class GeneratedPrompt:
    """A prompt: `score` is the cosine of its embedding and the embedding predicted for the image, in [-1, 1]."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """The best caption of an image, all generated captions (`alternatives`, best first), and the ranked candidates.

    `confidence` is the matcher's P(match) of image and best caption, in [0, 1]; None without a matcher.
    """

    best: str
    confidence: float | None
    alternatives: tuple[Alternative, ...]
    candidates: tuple[RankedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model of a service: its kind and name, whether the service has one of this kind, and whether it is loaded."""

    kind: Kind
    name: str
    available: bool
    loaded: bool


@dataclass(frozen=True, slots=True)
class AddProgress:
    """A folder that is being added to the index, and the number of files processed so far."""

    path: str
    seen: int


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """The index of a service.

    `index` is its folder, None without an index. `model` is the model that made it, or would. `images` counts the
    indexed images. `roots` are the folders that may be added; None allows every folder. `adding` is the folder being
    added now; None when idle.
    """

    index: str | None
    model: str
    images: int
    roots: tuple[str, ...] | None
    adding: AddProgress | None
