"""Copies of one image in a result or an index: equal files, and files saved again, resized or recompressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.data.containers import image_at
from diptych.images.near_duplicates import candidate_pairs, groups_around_first
from diptych.images.pixel_comparison import PixelComparison
from diptych.images.roots import Roots

MIN_COSINE = 0.9
"""Least cosine of the embeddings of two copies. Copies lie above 0.95, and their pixels agree as well."""
_BLOCK = 65_536  # pairs that are compared at once: the embeddings of all pairs may not fit in memory


def copy_groups(
    contents: Sequence[str],
    hashes: Sequence[int | None],
    embeddings: NDArray[np.floating],
    is_same: Callable[[int, int], bool],
) -> list[list[int]]:
    """Groups of two or more rows that show the same image, each in ascending order, ordered by their first row.

    Two rows are copies if their `contents` (hashes of the bytes, empty where unknown) are equal. A row is a copy of the
    first of its group if their perceptual `hashes` are near, the cosine of their unit `embeddings` (rows, dim) is at
    least 0.9, and `is_same` says that their pixels agree. So rows come in order of preference, and no chain of small
    changes makes a group.
    """
    first: dict[str, int] = {}
    leaders = [first.setdefault(content, row) if content else row for row, content in enumerate(contents)]
    hashed = np.array([row for row, leader in enumerate(leaders) if row == leader and hashes[row] is not None], int)
    near = hashed[candidate_pairs(np.array([hashes[row] for row in hashed], np.uint64))]
    head = list(range(len(contents)))  # of each row's group
    for group in groups_around_first(_similar(near, embeddings).tolist(), is_same):
        for row in group:
            head[row] = group[0]
    groups: dict[int, list[int]] = {}
    for row, leader in enumerate(leaders):
        groups.setdefault(head[leader], []).append(row)
    return sorted(group for group in groups.values() if len(group) > 1)


def _similar(pairs: NDArray[np.int64], embeddings: NDArray[np.floating]) -> NDArray[np.int64]:
    """The pairs of rows whose embeddings have at least the cosine `MIN_COSINE`, highest first."""
    cosines = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        first, second = embeddings[pairs[block, 0]], embeddings[pairs[block, 1]]
        cosines[block] = np.einsum("pd,pd->p", first, second, dtype=np.float32)
    order = np.argsort(-cosines, kind="stable")
    return pairs[order[cosines[order] >= MIN_COSINE]]


def pixel_comparison(paths: Sequence[str], contents: Sequence[str], roots: Roots) -> PixelComparison:
    """A comparison of rows by their pixels, for `copy_groups`.

    Args:
        paths: the path of each row.
        contents: the hash of each row's content, empty where unknown.
        roots: the folders in which images may be read.
    """
    keys = [content or path for content, path in zip(contents, paths, strict=True)]
    return PixelComparison(keys, lambda row: image_at(paths[row], roots))


def only_first(is_same: Callable[[int, int], bool], rows: int, contents: Sequence[str]) -> Callable[[int, int], bool]:
    """`is_same` while it matters for the first `rows` that are shown, so that a page does not wait for all others.

    The first rows are folded as they would be without a limit: `copy_groups` compares the first of each group in the
    order of the rows, and where this stops, at least `rows` groups and single rows have been passed.
    """
    known = [content for content in contents if content]
    folded = len(known) - len(set(known))

    def compare(first: int, second: int) -> bool:
        nonlocal folded
        if first - folded >= rows:
            return False
        answer = is_same(first, second)
        folded += answer
        return answer

    return compare
