"""Near-duplicates: pairs and groups equal those of comparing all hashes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import ConfigError
from diptych.images.near_duplicates import distinctive, near_groups, near_pairs

ANY = st.integers(0, 2**64 - 1)


@st.composite
def clustered_hashes(draw: st.DrawFn) -> list[int]:
    """A few hashes and copies of them with some bits changed, so that there are near ones at all."""
    seeds = draw(st.lists(ANY, min_size=1, max_size=5))
    flips = st.lists(st.integers(0, 63), max_size=8).map(lambda bits: sum(1 << bit for bit in set(bits)))
    copies = draw(st.lists(st.tuples(st.sampled_from(seeds), flips), max_size=25))
    return draw(st.permutations(seeds + [seed ^ flip for seed, flip in copies]))


def naive_pairs(hashes: list[int], distance: int) -> list[list[int]]:
    n = len(hashes)
    return [[i, j] for i in range(n) for j in range(i + 1, n) if (hashes[i] ^ hashes[j]).bit_count() <= distance]


def naive_groups(hashes: list[int], distance: int) -> list[list[int]]:
    groups = [{i} for i in range(len(hashes))]
    for i, j in naive_pairs(hashes, distance):
        first, second = (next(group for group in groups if k in group) for k in (i, j))
        if first is not second:
            first |= second
            groups.remove(second)
    return sorted(sorted(group) for group in groups if len(group) > 1)


@given(clustered_hashes(), st.integers(0, 15))
@settings(deadline=None)
def test_pairs_are_those_that_comparing_all_finds(hashes: list[int], distance: int) -> None:
    assert near_pairs(hashes, distance).tolist() == naive_pairs(hashes, distance)


@given(clustered_hashes(), st.integers(0, 8))
@settings(deadline=None)
def test_groups_are_those_that_comparing_all_finds(hashes: list[int], distance: int) -> None:
    assert near_groups(hashes, distance) == naive_groups(hashes, distance)


def test_the_example_of_the_docstring() -> None:
    assert near_pairs([0b0000, 0b0011, 0b1111], 2).tolist() == [[0, 1], [1, 2]]
    assert near_groups([0b0000, 0b0011, 0b1111], 2) == [[0, 1, 2]]


@pytest.mark.parametrize("hashes", [[], [7]])
def test_fewer_than_two_hashes_have_no_pairs(hashes: list[int]) -> None:
    assert near_pairs(hashes).shape == (0, 2)
    assert near_groups(hashes) == []


@pytest.mark.parametrize("distance", [-1, 16])
def test_a_distance_outside_its_range_is_refused(distance: int) -> None:
    with pytest.raises(ConfigError, match="0 to 15"):
        near_pairs([1, 2], distance)


def test_a_hundred_thousand_hashes_are_searched_in_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[70_000] = hashes[5] ^ np.uint64(0b1011)
    hashes[80_000:] = hashes[80_000]  # so many equal ones would be 200 million pairs
    begun = time.monotonic()
    groups = near_groups(hashes)
    assert time.monotonic() - begun < 30
    assert groups == [[5, 70_000], list(range(80_000, 100_000))]


def test_hashes_of_plain_images_are_not_distinctive() -> None:
    assert distinctive([0, 2**64 - 1, 0b1111111, 0x00FF00FF00FF00FF]).tolist() == [False, False, False, True]
