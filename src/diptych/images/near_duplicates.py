"""Near-identical pictures: which 64-bit perceptual hashes lie within a few bits, found without comparing all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.errors import ConfigError

DISTANCE = 4
_LEAST_SET_BITS = 8


def near_pairs(hashes: Sequence[int] | np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """All pairs of 64-bit hashes that differ in at most `distance` bits (0 to 15): (pairs, 2) int64, i < j, sorted.

    The bits are dealt into `distance + 1` bands: two hashes that differ in at most `distance` bits agree in at least
    one of them (pigeonhole), so only hashes that share a band are compared. Exact: nothing is missed.

    Example: of 0b0000, 0b0011 and 0b1111, at distance 2, the pairs are (0, 1) and (1, 2).

    Raises:
        ConfigError: `distance` is outside 0 to 15.
    """
    if not 0 <= distance < 16:
        raise ConfigError(f"distance is {distance} bits; near-identical pictures differ in 0 to 15 of 64")
    values = np.asarray(hashes, np.uint64)  # (n,)
    found = [_pairs_in_band(values, values & _band(band, distance + 1), distance) for band in range(distance + 1)]
    return np.unique(np.concatenate(found), axis=0)


def near_groups(hashes: Sequence[int] | np.ndarray, distance: int = DISTANCE) -> list[list[int]]:
    """Groups of two or more indices joined by chains of near pairs, each in ascending order, by their first index.

    Many equal hashes cost no more than one: pairs are looked for among the distinct values.
    """
    values, inverse = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    parent = list(range(len(values)))
    for first, second in near_pairs(values, distance).tolist():
        parent[_root(parent, first)] = _root(parent, second)
    groups: dict[int, list[int]] = {}
    for index, value in enumerate(inverse.reshape(-1).tolist()):
        groups.setdefault(_root(parent, value), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def telling(hashes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Which hashes tell pictures apart, (n,) bool: not those with nearly all bits alike.

    Plain areas set no bits, so blank pages and logos on plain paper all lie near 0, however different they are.
    """
    set_bits = _count_bits(np.asarray(hashes, np.uint64))
    return (set_bits >= _LEAST_SET_BITS) & (set_bits <= 64 - _LEAST_SET_BITS)


def _band(band: int, bands: int) -> np.uint64:
    """Every `bands`-th bit: neighbouring bits of a picture's hash go together and would make lopsided bands."""
    return np.uint64(sum(1 << bit for bit in range(band, 64, bands)))


def _pairs_in_band(values: np.ndarray, keys: np.ndarray, distance: int) -> np.ndarray:
    """Near pairs among the values whose keys are equal: (pairs, 2).

    Sorted by key, each value is compared with the one `step` places on, for growing `step` while keys still agree:
    memory stays O(n) however many share a key.
    """
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    found = [np.empty((0, 2), np.int64)]
    first, step = np.arange(len(values)), 1
    while len(first):
        first = first[first + step < len(values)]
        first = first[keys[first] == keys[first + step]]
        near = first[_count_bits(values[first] ^ values[first + step]) <= distance]
        found.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
        step += 1
    return np.concatenate(found)


def _count_bits(values: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
