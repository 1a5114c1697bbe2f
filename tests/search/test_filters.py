"""Filters: their conditions, dates, and texts that must not break out of the SQL."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import ConfigError
from diptych.search.filters import Filters, both, parse_day
from diptych.search.index import Index
from tests.libraries import index_of

pytest.importorskip("lancedb")

DAY = datetime.datetime(2020, 5, 17, 12, 0, 0)


def _found(index: Index, filters: Filters) -> set[str]:
    condition = filters.condition()
    query = index.store.table.search().select(["path"]).limit(200)
    return {row["path"] for row in (query.where(condition) if condition else query).to_list()}


def _index(folder: Path, **columns: list[Any]) -> Index:
    """An index of pictures at /p/0, /p/1, ... with these columns."""
    count = len(next(iter(columns.values())))
    rows = [{"path": f"/p/{at}", "vector": np.eye(4)[at % 4]} for at in range(count)]
    return index_of(
        folder, [{**row, **{name: values[at] for name, values in columns.items()}} for at, row in enumerate(rows)]
    )


def test_no_filter_is_no_condition() -> None:
    assert Filters().condition() is None
    assert both(None, None) is None
    assert both("a OR b", None, "c") == "(a OR b) AND (c)"


def test_a_folder_filter_includes_subfolders_and_not_folders_with_the_same_prefix(tmp_path: Path) -> None:
    paths = ["/a/b/1", "/a/b/c/2", "/a/bc/3", "/a/b'; DROP--/4", "/a/5"]
    index = index_of(tmp_path / "index", [{"path": path, "vector": [1, 0]} for path in paths])
    assert _found(index, Filters(folder="/a/b")) == {"/a/b/1", "/a/b/c/2"}
    assert _found(index, Filters(folder="/a/b'; DROP--")) == {"/a/b'; DROP--/4"}
    assert _found(index, Filters(folder="/")) == set(paths)
    assert _found(index, Filters(folder="/a/b/../bc")) == {"/a/bc/3"}


def test_sides_are_the_shorter_and_the_longer(tmp_path: Path) -> None:
    index = _index(tmp_path / "i", width=[100, 400, 300, None], height=[400, 100, 300, None])
    assert _found(index, Filters(min_side=101)) == {"/p/2"}
    assert _found(index, Filters(max_side=399)) == {"/p/2"}
    assert _found(index, Filters(min_side=100, max_side=400)) == {"/p/0", "/p/1", "/p/2"}


def test_a_square_differs_by_at_most_five_percent(tmp_path: Path) -> None:
    index = _index(tmp_path / "i", width=[105, 106, 100, 100], height=[100, 100, 105, 106])
    assert _found(index, Filters(shape="square")) == {"/p/0", "/p/2"}
    assert _found(index, Filters(shape="landscape")) == {"/p/1"}
    assert _found(index, Filters(shape="portrait")) == {"/p/3"}


def test_bytes_are_bounded_on_both_sides(tmp_path: Path) -> None:
    index = _index(tmp_path / "i", size=[10, 20, 30])
    assert _found(index, Filters(min_bytes=20)) == {"/p/1", "/p/2"}
    assert _found(index, Filters(max_bytes=20)) == {"/p/0", "/p/1"}


def test_date_bounds_are_inclusive_and_fall_back_to_the_files_last_change(tmp_path: Path) -> None:
    changed = int(DAY.timestamp()) * 10**9 + 5
    other = int((DAY - datetime.timedelta(days=100)).timestamp()) * 10**9
    index = _index(
        tmp_path / "i", taken=[DAY, DAY - datetime.timedelta(days=1), None, None], mtime=[0, changed, changed, other]
    )
    assert _found(index, Filters(since=DAY.date())) == {"/p/0", "/p/2"}
    assert _found(index, Filters(until=DAY.date())) == {"/p/0", "/p/1", "/p/2", "/p/3"}
    assert _found(index, Filters(until=DAY.date() - datetime.timedelta(days=1))) == {"/p/1", "/p/3"}
    assert _found(index, Filters(since=DAY, until=DAY)) == {"/p/0", "/p/2"}
    assert _found(index, Filters(since=DAY + datetime.timedelta(seconds=1))) == set()


def test_a_time_with_a_zone_is_converted_to_local_time(tmp_path: Path) -> None:
    index = _index(tmp_path / "i", taken=[DAY])
    moment = DAY.astimezone(datetime.UTC)
    assert _found(index, Filters(since=moment, until=moment)) == {"/p/0"}


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2021", datetime.date(2021, 1, 1), datetime.date(2021, 12, 31)),
        ("2024-02", datetime.date(2024, 2, 1), datetime.date(2024, 2, 29)),
        ("2021-05-17", datetime.date(2021, 5, 17), datetime.date(2021, 5, 17)),
        ("0001-01-01", datetime.date.min, datetime.date.min),
        ("9999", datetime.date(9999, 1, 1), datetime.date.max),
        ("2021-05-17T12:30", datetime.datetime(2021, 5, 17, 12, 30), datetime.datetime(2021, 5, 17, 12, 30)),
        ("2021-05-17 12:30:05", *[datetime.datetime(2021, 5, 17, 12, 30, 5)] * 2),
        ("2021-05-17T12:30Z", *[datetime.datetime(2021, 5, 17, 12, 30, tzinfo=datetime.UTC)] * 2),
    ],
)
def test_a_date_is_iso_8601_and_a_year_or_month_is_its_first_or_last_day(
    text: str, first: datetime.date, last: datetime.date
) -> None:
    assert (parse_day(text), parse_day(text, end=True)) == (first, last)
    filters = Filters(since=text, until=text)
    assert (filters.since, filters.until) == (first, last)
    assert type(filters.since) is type(first)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "17.05.2021",
        "20210517",
        "2021-5-17",
        "2021-W20",
        "2021-02-30",
        "2021-13",
        "0000",
        "2021-05-17T25:00",
    ],
)
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not (a|an ISO 8601) date .*|.*; (write|check) "):
        parse_day(text)
    with pytest.raises(ConfigError):
        Filters(until=text)


@pytest.mark.parametrize("value", [2021, 1_609_459_200, 20.5, True, b"2021", ("2021",)])
def test_a_number_is_no_date(value: Any) -> None:
    for name in ("since", "until"):
        with pytest.raises(ConfigError, match=f"{name} is .* write a date as text"):
            Filters(**{name: value})


@pytest.mark.parametrize("zone", ["", "Z", "+14:00", "-14:00"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_ends_of_the_calendar_filter_in_every_time_zone(tmp_path: Path, day: str, zone: str) -> None:
    index = _index(tmp_path / "i", taken=[DAY, None], mtime=[0, int(DAY.timestamp()) * 10**9])
    expected = {"/p/0", "/p/1"} if day == "0001-01-01" else set()
    assert _found(index, Filters(since=f"{day}T12:00{zone}" if zone else day)) == expected
    assert _found(index, Filters(until=f"{day}T12:00{zone}" if zone else day)) == {"/p/0", "/p/1"} - expected


def test_words_are_found_in_any_order_and_case(tmp_path: Path) -> None:
    captions = ["A Dog runs\non the beach", "a dog", None, "100% of a_b"]
    index = _index(tmp_path / "i", caption=captions, camera=["Canon EOS 5D", "NIKON", None, ""])
    assert _found(index, Filters(caption="BEACH dog")) == {"/p/0"}
    assert _found(index, Filters(caption="%")) == {"/p/3"}
    assert _found(index, Filters(caption="a_b")) == {"/p/3"}
    assert _found(index, Filters(camera="eos canon")) == {"/p/0"}


def test_several_filters_must_all_hold(tmp_path: Path) -> None:
    index = _index(tmp_path / "i", width=[500, 500], height=[200, 200], camera=["A", "B"])
    assert _found(index, Filters(shape="landscape", camera="b", folder="/p")) == {"/p/1"}


@pytest.mark.parametrize("settings", [{"shape": "round"}, {"min_side": -1}, {"caption": " "}, {"camera": ""}])
def test_a_filter_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Filters(**settings)


# What SQL, LIKE and shells treat as special, beside letters that survive a change of case.
_LETTERS = "ab'\"\\%_;-()*?[]{}$`|&<>éß日😀\u200b"
_WORD = st.text(st.sampled_from(_LETTERS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, list[str]]:
    """An index of captions, and of folders, made of special characters."""
    draw = random.Random(0)
    words = sorted({"".join(draw.choices(_LETTERS, k=draw.randint(1, 6))) for _ in range(90)})
    rows = [{"path": f"/{word}/x", "caption": word, "camera": word, "vector": [1, 0]} for word in words]
    return index_of(tmp_path_factory.mktemp("nasty"), rows), words


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_word_finds_exactly_the_texts_that_hold_it(nasty: tuple[Index, list[str]], data: st.DataObject) -> None:
    index, words = nasty
    word = data.draw(_WORD | st.sampled_from(words))
    holding = {f"/{each}/x" for each in words if word.lower() in each.lower()}
    assert _found(index, Filters(caption=word)) == holding
    assert _found(index, Filters(camera=word)) == holding


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_folders_name_finds_exactly_its_pictures(nasty: tuple[Index, list[str]], data: st.DataObject) -> None:
    index, words = nasty
    name = data.draw(_WORD | st.sampled_from(words))
    assert _found(index, Filters(folder=f"/{name}")) == ({f"/{name}/x"} if name in words else set())


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=40).filter(lambda text: text.split()))
def test_no_text_breaks_out_of_its_condition(nasty: tuple[Index, list[str]], text: str) -> None:
    """Whatever is asked for, the condition is valid and finds no text that shares no character with it."""
    try:
        found = _found(nasty[0], Filters(caption=text))
    except UnicodeEncodeError:  # a lone surrogate is no text; it never reaches the database
        return
    assert all(set(text.lower()) & set(path.lower()) for path in found)
