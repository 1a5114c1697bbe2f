"""Near-duplicate images: pairs and groups of 64-bit perceptual hashes within a small Hamming distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.errors import ConfigError

DISTANCE = 4
"""Largest Hamming distance, in bits of 64, at which two images count as near-duplicates."""
_MIN_SET_BITS = 8


def near_pairs(hashes: Sequence[int] | NDArray[np.uint64], distance: int = DISTANCE) -> NDArray[np.int64]:
    """All pairs of 64-bit hashes that differ in at most `distance` bits (0 to 15): (pairs, 2), i < j, sorted.

    The bits are dealt into `distance + 1` bands. By the pigeonhole principle, two hashes that differ in at most
    `distance` bits agree in at least one band, so only hashes with an equal band are compared. The result is exact.

    Example: for 0b0000, 0b0011 and 0b1111 at distance 2, the pairs are (0, 1) and (1, 2).

    Raises:
        ConfigError: `distance` is outside 0 to 15.
    """
    if not 0 <= distance < 16:
        raise ConfigError(f"distance is {distance} bits; near-duplicates differ in 0 to 15 of 64 bits")
    values = np.asarray(hashes, np.uint64)  # (n,)
    pairs = [_pairs_in_band(values, values & _band(band, distance + 1), distance) for band in range(distance + 1)]
    return np.unique(np.concatenate(pairs), axis=0)


def near_groups(hashes: Sequence[int] | NDArray[np.uint64], distance: int = DISTANCE) -> list[list[int]]:
    """Groups of two or more indices that are linked by chains of near pairs; see `connected_groups` for the order.

    Equal hashes are linked first and only distinct values are searched for near pairs, so that many equal hashes cost
    no more than one.

    Raises:
        ConfigError: `distance` is outside 0 to 15.
    """
    values, first, inverse = np.unique(np.asarray(hashes, np.uint64), return_index=True, return_inverse=True)
    equal = np.stack([first[inverse.reshape(-1)], np.arange(len(hashes))], axis=1)
    return connected_groups(len(hashes), np.concatenate([equal, first[near_pairs(values, distance)]]))


def connected_groups(count: int, edges: NDArray[np.int64]) -> list[list[int]]:
    """The connected components with two or more of `count` nodes; `edges` is (edges, 2).

    Each group lists its nodes in ascending order; groups are ordered by their first node.

    Example: of 5 nodes with edges (3, 1) and (1, 4), the only group is [1, 3, 4].
    """
    edges = edges[edges[:, 0] != edges[:, 1]]
    if not len(edges):
        return []
    from scipy.sparse import coo_array  # 0.3 s, which a search without near-duplicates need not spend
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    groups: dict[int, list[int]] = {}
    for node, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def distinctive(hashes: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each hash can tell images apart, (n,): False where nearly all of its bits are equal.

    Plain areas set no bits, so blank pages and logos on a plain background all hash close to 0, however different they
    are.
    """
    set_bits = _count_bits(np.asarray(hashes, np.uint64))
    return (set_bits >= _MIN_SET_BITS) & (set_bits <= 64 - _MIN_SET_BITS)


def _band(band: int, bands: int) -> np.uint64:
    """A mask of every `bands`-th bit. Neighbouring bits are correlated, so contiguous bands would be unbalanced."""
    return np.uint64(sum(1 << bit for bit in range(band, 64, bands)))


def _pairs_in_band(values: NDArray[np.uint64], keys: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Near pairs among the values whose keys are equal: (pairs, 2).

    Values are sorted by key, and each is compared with the one `step` places later, for growing `step` while the keys
    still agree. Memory stays O(n), however many values share a key.
    """
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    pairs = [np.empty((0, 2), np.int64)]
    first, step = np.arange(len(values)), 1
    while len(first):
        first = first[first + step < len(values)]
        first = first[keys[first] == keys[first + step]]
        near = first[_count_bits(values[first] ^ values[first + step]) <= distance]
        pairs.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
        step += 1
    return np.concatenate(pairs)


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    bits = np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.sum(axis=1, dtype=np.int64)
