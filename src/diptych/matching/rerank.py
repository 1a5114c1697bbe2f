"""Re-ranking: the pictures that a dual encoder finds first, put in order by a matcher that looks closer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from diptych.matching.calibration import Calibration
from diptych.matching.matcher import Encoded, Matcher

FIRST = 50  # so many pictures are looked at again
_BLOCK = 256  # texts at once


@dataclass(frozen=True)
class Candidates:
    """The first pictures that a dual encoder finds for each text, and what a matcher knows of them.

    `evidence` is (texts, first, 4), its columns those of `calibration.EVIDENCE`; `own` is (texts,) which of them is the
    text's own picture, -1 where none is; `by_cosine` is (texts,) the rank of the own picture among all, from 1.
    """

    evidence: np.ndarray
    own: np.ndarray
    by_cosine: np.ndarray

    def ranks(self, calibration: Calibration) -> np.ndarray:
        """The rank of each text's own picture when its candidates are ordered by probability: (texts,) from 1.

        Pictures beyond the candidates keep their rank by cosine. Ties count against the model, as in
        `metrics.retrieval`.
        """
        logits = calibration.logits(self.evidence)  # (texts, first)
        own = logits[np.arange(len(logits)), self.own]
        return np.where(self.own >= 0, (logits >= own[:, None]).sum(axis=1), self.by_cosine)


def candidates(matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST) -> Candidates:
    """Each text's `first` nearest pictures by cosine, looked at by the matcher's head.

    Args:
        owner: (texts,) the row of each text's own picture.
    """
    first = min(first, len(images))
    parts = []
    for start in range(0, len(texts), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(texts)))
        cosines = texts.take(block).vectors @ images.vectors.T  # (block, pictures)
        found = cosines.topk(first, dim=1).indices.cpu().numpy()  # (block, first)
        evidence = matcher.evidence(images, texts, found.ravel(), np.repeat(block, first))
        is_own = found == np.asarray(owner)[block, None]
        at = torch.from_numpy(np.asarray(owner)[block]).to(cosines.device)
        ranks = (cosines >= cosines.gather(1, at[:, None])).sum(1).cpu().numpy()  # its own among them
        own = np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1)
        parts.append((evidence.reshape(len(block), first, -1), own, ranks))
    return Candidates(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def reranked_ranks(
    matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST
) -> np.ndarray:
    """The rank of each text's own picture, from 1, after its `first` nearest are put in the matcher's order."""
    return candidates(matcher, images, texts, owner, first).ranks(matcher.calibration)
