"""Cosine similarity of NumPy matrices: `normalize` to unit length, and the block-wise `top_k` nearest rows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def normalize(vectors: NDArray[Float], *, eps: float = 1e-12) -> NDArray[Float]:
    """Scale vectors to unit Euclidean length along the last axis.

    Args:
        vectors: (..., dim) floating-point array; its dtype is kept.
        eps: lower bound of the divisor: a vector shorter than this, such as zero, is not scaled up to unit length.

    >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), eps)


def top_k(
    queries: NDArray[Float], candidates: NDArray[Float], k: int, *, block: int = 1024
) -> tuple[NDArray[np.int64], NDArray[Float]]:
    """Find the `k` candidates with the largest inner product for each query.

    The similarity matrix is computed `block` queries at a time and never held as a whole.

    Args:
        queries: (queries, dim).
        candidates: (candidates, dim), at least one.
        k: how many to find for each query, at least 1; fewer are returned when there are fewer candidates.
        block: queries compared with all candidates at once.

    Returns:
        Rows of `candidates`, (queries, k) int64, best first, and their scores, (queries, k). Equal scores are ordered
        by row; which of several candidates that tie for the last place are returned is unspecified.

    Raises:
        ValueError: `k` is below 1, or there is no candidate.

    >>> rows, scores = top_k(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.6, 0.8], [0.8, 0.6]]), 2)
    >>> rows.tolist(), scores.tolist()
    ([[2, 1]], [[0.8, 0.6]])
    """
    if k < 1 or not len(candidates):
        raise ValueError(f"k is {k} of {len(candidates)} candidates; both must be at least 1")
    k = min(k, len(candidates))
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.result_type(queries, candidates))
    for start in range(0, len(queries), block):
        similarities = queries[start : start + block] @ candidates.T  # (block, candidates)
        best = np.sort(np.argpartition(-similarities, k - 1, axis=1)[:, :k], axis=1)
        values = np.take_along_axis(similarities, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[start : start + block] = np.take_along_axis(best, order, axis=1)
        scores[start : start + block] = np.take_along_axis(values, order, axis=1)
    return rows, scores
