"""Re-ranking: a dual encoder's nearest images, ordered by a matcher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.matching.calibration import Calibration
from diptych.matching.encoded import Encoded
from diptych.matching.matcher import Matcher

FIRST = 50
"""Images that are re-ranked by default."""

_BLOCK = 256  # texts at once


@dataclass(frozen=True)
class Candidates:
    """The nearest images of each text by cosine, and the matcher's evidence for them.

    Attributes:
        evidence: (texts, first, 4) with the columns of `calibration.EVIDENCE`.
        own: (texts,) position of the text's own image among them, -1 where it is not one of them.
        by_cosine: (texts,) rank of the own image among all images by cosine, from 1.
    """

    evidence: NDArray[np.float64]
    own: NDArray[np.int64]
    by_cosine: NDArray[np.int64]

    def ranks(self, calibration: Calibration) -> NDArray[np.int64]:
        """Rank of each text's own image after re-ranking: (texts,) from 1.

        Images beyond the candidates keep their rank by cosine. Ties count against the model, as in
        `evaluation.metrics.retrieval`.
        """
        logits = calibration.logits(self.evidence)  # (texts, first)
        own = logits[np.arange(len(logits)), self.own]
        return np.where(self.own >= 0, (logits >= own[:, None]).sum(axis=1), self.by_cosine)


def candidates(matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST) -> Candidates:
    """The evidence for each text's `first` nearest images by cosine.

    Args:
        matcher: The matcher.
        images: Encoded images.
        texts: Encoded texts.
        owner: (texts,) row of each text's own image.
        first: Number of images for each text.
    """
    first = min(first, len(images))
    parts = []
    for start in range(0, len(texts), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(texts)))
        cosines = texts.take(block).embeddings @ images.embeddings.T  # (block, images)
        nearest = cosines.topk(first, dim=1).indices.cpu().numpy()  # (block, first)
        evidence = matcher.evidence(images, texts, nearest.ravel(), np.repeat(block, first))
        is_own = nearest == np.asarray(owner)[block, None]
        own_rows = torch.from_numpy(np.asarray(owner)[block]).to(cosines.device)
        ranks = (cosines >= cosines.gather(1, own_rows[:, None])).sum(1).cpu().numpy()  # counts the own image too
        own = np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1)
        parts.append((evidence.reshape(len(block), first, -1), own, ranks))
    return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def reranked_ranks(
    matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST
) -> NDArray[np.int64]:
    """Rank of each text's own image, (texts,) from 1, after the matcher re-ranks its `first` nearest images."""
    return candidates(matcher, images, texts, owner, first).ranks(matcher.calibration)
