"""Result types of a service: `Service` in this process and `Client` over HTTP return the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["encoder", "captioner", "matcher", "prompter"]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit embeddings of images and texts in one space.

    Attributes:
        image_embeddings: (images, dim) float32.
        text_embeddings: (texts, dim) float32.
    """

    image_embeddings: NDArray[np.float32]
    text_embeddings: NDArray[np.float32]

    @property
    def similarity(self) -> NDArray[np.float32]:
        """The cosine of each image and each text: (images, texts), in [-1, 1]."""
        return self.image_embeddings @ self.text_embeddings.T


@dataclass(frozen=True, slots=True)
class Alternative:
    """A generated caption.

    Attributes:
        text: The caption.
        score: Its mean log-probability per token, at most 0.
        confidence: The matcher's P(match), in [0, 1]; None without a matcher.
    """

    text: str
    score: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate caption.

    Attributes:
        text: The caption.
        similarity: Its cosine with the image, in [-1, 1].
        probability: Its probability among all candidates, which sum to 1.
    """

    text: str
    similarity: float
    probability: float


@dataclass(frozen=True, slots=True)
class GeneratedPrompt:
    """A prompt for an image.

    Attributes:
        text: The prompt.
        score: The cosine of its embedding and the embedding predicted for the image, in [-1, 1].
    """

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """The captions of an image.

    Attributes:
        best: The best generated caption.
        confidence: The matcher's P(match) of image and best caption, in [0, 1]; None without a matcher.
        alternatives: All generated captions, best first.
        candidates: The given candidates, best first.
    """

    best: str
    confidence: float | None
    alternatives: tuple[Alternative, ...]
    candidates: tuple[RankedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model of a service.

    Attributes:
        kind: What it is.
        name: Its name or path.
        available: Whether the service has a model of this kind.
        loaded: Whether it has been loaded.
    """

    kind: Kind
    name: str
    available: bool
    loaded: bool


@dataclass(frozen=True, slots=True)
class AddProgress:
    """A folder that is being added to the index.

    Attributes:
        path: The folder.
        seen: How many files have been processed so far.
    """

    path: str
    seen: int


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """The index of a service.

    Attributes:
        index: Its folder; None without an index.
        model: The model that made it, or would.
        images: How many images it has.
        roots: The folders that may be added; None allows every folder.
        adding: The folder being added now; None when idle.
    """

    index: str | None
    model: str
    images: int
    roots: tuple[str, ...] | None
    adding: AddProgress | None
