"""Copies of one image in a result or an index: equal files, and files saved again, resized or recompressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.images.near_duplicates import connected_groups, distinctive, near_pairs

MIN_COSINE = 0.9
"""Least cosine of the embeddings of two copies. Copies lie above 0.95, and their perceptual hashes agree as well."""
_BLOCK = 65_536  # pairs that are compared at once: the embeddings of all pairs may not fit in memory


def copy_groups(
    contents: Sequence[str], hashes: Sequence[int | None], embeddings: NDArray[np.floating]
) -> list[list[int]]:
    """Groups of two or more rows that show the same image, each in ascending order, ordered by their first row.

    Two rows are copies if their `contents` (hashes of the bytes, empty where unknown) are equal, or if their
    perceptual `hashes` differ in at most 4 of 64 bits and the cosine of their unit `embeddings` (rows, dim) is at
    least 0.9. Chains of such pairs form a group. A perceptual hash alone would join images that merely have the same
    layout of light and dark.
    """
    first: dict[str, int] = {}
    leaders = [first.setdefault(content, row) if content else row for row, content in enumerate(contents)]
    equal = np.array([[leader, row] for row, leader in enumerate(leaders)], np.int64).reshape(-1, 2)
    hashed = np.array([row for row, leader in enumerate(leaders) if row == leader and hashes[row] is not None], int)
    values = np.array([hashes[row] for row in hashed], np.uint64)
    usable = distinctive(values)
    near = _similar(hashed[usable][near_pairs(values[usable])], embeddings)
    return connected_groups(len(contents), np.concatenate([equal, near]))


def _similar(pairs: NDArray[np.int64], embeddings: NDArray[np.floating]) -> NDArray[np.int64]:
    """The pairs of rows whose embeddings have at least the cosine `MIN_COSINE`."""
    blocks = [np.empty((0, 2), np.int64)]
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        cosines = np.einsum("pd,pd->p", embeddings[block[:, 0]], embeddings[block[:, 1]], dtype=np.float32)
        blocks.append(block[cosines >= MIN_COSINE])
    return np.concatenate(blocks)
