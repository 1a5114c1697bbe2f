"""Copies: which of some pictures are the same one, saved again, resized or compressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.images.near_duplicates import near_pairs, telling

LEAST_COSINE = 0.9  # of two vectors; copies of a picture lie above 0.95, and their perceptual hashes agree as well


def copy_groups(contents: Sequence[str], hashes: Sequence[int | None], vectors: np.ndarray) -> list[list[int]]:
    """Groups of two or more pictures that are the same, as ascending indices, by their first.

    Two are the same if their `contents` (hashes of the bytes, empty where unknown) agree, or if their perceptual
    `hashes` differ in at most 4 of 64 bits and the cosine of their unit `vectors` (n, dim) is at least 0.9. Chains of
    such pairs make a group. A hash alone would join pictures that merely share light and dark.
    """
    leaders = list(range(len(contents)))
    first: dict[str, int] = {}
    for at, content in enumerate(contents):
        if content:
            leaders[at] = first.setdefault(content, at)
    alone = np.array([at for at, leader in enumerate(leaders) if at == leader and hashes[at] is not None], np.int64)
    values = np.array([hashes[at] for at in alone], np.uint64)
    alone, values = alone[telling(values)], values[telling(values)]
    pairs = alone[near_pairs(values)]  # (pairs, 2)
    for start in range(0, len(pairs), 65_536):  # a block at a time: the vectors of all pairs may not fit in memory
        block = pairs[start : start + 65_536]
        alike = np.einsum("pd,pd->p", vectors[block[:, 0]], vectors[block[:, 1]], dtype=np.float32) >= LEAST_COSINE
        for one, other in block[alike].tolist():
            low, high = sorted((_leader(leaders, one), _leader(leaders, other)))
            leaders[high] = low
    groups: dict[int, list[int]] = {}
    for at in range(len(leaders)):
        groups.setdefault(_leader(leaders, at), []).append(at)
    return [group for group in groups.values() if len(group) > 1]


def _leader(leaders: list[int], at: int) -> int:
    while leaders[at] != at:
        leaders[at] = leaders[leaders[at]]
        at = leaders[at]
    return at
