"""Re-ranking: the pictures that a dual encoder finds first, put in order by a matcher that looks closer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diptych.matcher import Encoded, Matcher

FIRST = 50  # so many pictures are looked at again
_BLOCK = 256  # texts at once


def reranked_ranks(
    matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST
) -> np.ndarray:
    """The rank of each text's own picture, from 1, after its `first` nearest pictures are put in the matcher's order.

    Pictures beyond these keep their rank by cosine. Ties count against the model, as in `retrieval_ranks`.

    Args:
        owner: (texts,) the row of each text's own picture.
    """
    parts = []
    for start in range(0, len(texts), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(texts)))
        parts.append(_ranks(matcher, images, texts.take(block), np.asarray(owner)[block], min(first, len(images))))
    return np.concatenate(parts)


def _ranks(matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int) -> np.ndarray:
    cosines, found = _found(images, texts, first)
    at = torch.from_numpy(owner).to(cosines.device)
    ranks = (cosines >= cosines.gather(1, at[:, None])).sum(1).cpu().numpy()  # its own among them
    columns = np.repeat(np.arange(len(texts)), first)
    logits = matcher.logits(images, texts, found.ravel(), columns).reshape(-1, first)
    is_own = found == owner[:, None]
    own_logits = np.where(is_own, logits, -np.inf).max(axis=1, keepdims=True)
    return np.where(is_own.any(axis=1), (logits >= own_logits).sum(axis=1), ranks)


def _found(images: Encoded, texts: Encoded, first: int) -> tuple[Tensor, np.ndarray]:
    """Cosines (texts, pictures), and the rows of the `first` nearest pictures of each text."""
    cosines = texts.vectors @ images.vectors.T
    return cosines, cosines.topk(first, dim=1).indices.cpu().numpy()


def nearest(
    matcher: Matcher, images: Encoded, texts: Encoded, owner: np.ndarray, first: int = FIRST
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of each text's nearest pictures, (texts, first, 4), and which is its own: (texts,), -1 where none is."""
    first = min(first, len(images))
    parts, own = [], []
    for start in range(0, len(texts), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(texts)))
        _, found = _found(images, texts.take(block), first)
        evidence = matcher.evidence(images, texts, found.ravel(), np.repeat(block, first))
        parts.append(evidence.reshape(len(block), first, -1))
        is_own = found == np.asarray(owner)[block, None]
        own.append(np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1))
    return np.concatenate(parts), np.concatenate(own)
