"""Splits of pairs: by a hash of the id, stable, and with no empty part that could be filled."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.pairs import Pairs, Row, split_position
from diptych.errors import DataError

ids = st.lists(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


def _pairs(names: list[str], split: str | None = None) -> Pairs:
    return Pairs.from_rows(Row(name, Path(name), ("x",), split) for name in names)


@given(ids)
def test_a_validation_part_is_never_empty_from_two_images_on(names: list[str]) -> None:
    sizes = _pairs(names).with_val().split_sizes
    assert sizes["val"] >= 1
    assert sizes["train"] >= 1


@given(ids.filter(lambda names: len(names) > 2), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_each_of_three_parts_has_an_image_from_three_images_on(names: list[str], val: float, test: float) -> None:
    assert set(_pairs(names).with_splits(val, test).split_sizes) == {"train", "val", "test"}


@given(ids, st.floats(0, 1), st.floats(0, 1))
def test_a_part_that_is_not_empty_by_its_hashes_holds_exactly_those(names: list[str], val: float, test: float) -> None:
    position = {name: split_position(name) for name in names}
    wanted = {
        name: "test" if position[name] < test else "val" if position[name] < test + val else "train" for name in names
    }
    if len(set(wanted.values())) == 3:
        assert dict(zip(names, _pairs(names).with_splits(val, test).values("split"), strict=True)) == wanted


def test_shares_of_nothing_stay_empty() -> None:
    names = [str(number) for number in range(5)]
    assert _pairs(names).with_splits(0, 0).split_sizes == {"train": 5}
    assert _pairs(names).with_splits(1.0, 0).split_sizes == {"val": 5}
    assert _pairs(names, "train").with_val(0).split_sizes == {"train": 5}


def test_adding_images_moves_none_of_a_set_that_is_large_enough() -> None:
    names = [str(number) for number in range(300)]
    before, after = _pairs(names[:200]).with_val(), _pairs(names).with_val()
    assert list(before.values("split")) == list(after.values("split"))[:200]


def test_a_single_image_is_refused_with_what_a_validation_split_takes() -> None:
    with pytest.raises(DataError, match=r"no image is in split 'val'.*takes at least two images"):
        _pairs(["a"]).with_val().split("val")
