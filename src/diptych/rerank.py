"""Re-ranking: the pictures that a dual encoder finds first, put in order by a matcher that looks closer."""

from __future__ import annotations

import numpy as np
import torch

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
    cosines = texts.vectors @ images.vectors.T  # (texts, pictures)
    at = torch.from_numpy(owner).to(cosines.device)
    own = cosines.gather(1, at[:, None])
    ranks = (cosines >= own).sum(1)  # its own among them
    nearest = cosines.topk(first, dim=1).indices  # (texts, first)
    columns = np.repeat(np.arange(len(texts)), first)
    logits = matcher.logits(images, texts, nearest.flatten().cpu().numpy(), columns).reshape(-1, first)
    is_own = (nearest == at[:, None]).cpu().numpy()
    own_logits = np.where(is_own, logits, -np.inf).max(axis=1, keepdims=True)
    again = (logits >= own_logits).sum(axis=1)
    return np.where(is_own.any(axis=1), again, ranks.cpu().numpy())
