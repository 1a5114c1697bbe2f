"""Matching two lists of ids by name: which match, which have no match, and which match more than once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych.data.formats.read import read_pairs
from diptych.data.joins import JoinReport, Tally, canonical_id, match_ids


def join(names: list[str], ids: list[str], aliases: dict[str, str] | None = None) -> tuple[dict[str, str], JoinReport]:
    return match_ids(names, ids, left="captions", right="images", aliases=aliases)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(139, "139"), (139.0, "139"), ("139", "139"), (" 139.0 ", "139"), ("000139", "000139"), ("1.5", "1.5")],
)
def test_one_number_has_one_spelling(value: object, wanted: str) -> None:
    assert canonical_id(value) == wanted


def test_equal_names_meet_and_the_rest_is_counted_on_both_sides() -> None:
    found, report = join(["a", "b", "x"], ["a", "b", "c", "d"])
    assert found == {"a": "a", "b": "b"}
    assert (report.matched, report.left_only, report.right_only) == (2, Tally(1, ("x",)), Tally(2, ("c", "d")))
    assert not report.is_complete
    assert report.sentences() == [
        "1 of the captions have no match among the images: 'x'",
        "2 of the images have no match among the captions: 'c', 'd'",
    ]


def test_a_complete_join_has_nothing_to_say() -> None:
    _, report = join(["a", "b"], ["b", "a"])
    assert report.is_complete
    assert report.summary() == "2 of the captions match the images"


def test_aliases_decide_where_the_digits_of_file_names_disagree_with_them() -> None:
    ids = ["COCO_val2014_000000000002.jpg", "COCO_val2014_000000000001.jpg"]
    aliases = {"1": ids[0], "2": ids[1]}
    assert join(["1", "2"], ids, aliases)[0] == {"1": ids[0], "2": ids[1]}
    assert join(["1", "2"], ids)[0] == {"1": ids[1], "2": ids[0]}


def test_a_second_name_of_an_id_is_counted_and_the_exact_name_is_used() -> None:
    found, report = join(["old/a.jpg", "a.jpg"], ["a.jpg"])
    assert found == {"a.jpg": "a.jpg"}
    assert (report.matched, report.repeated) == (1, Tally(1, ("old/a.jpg",)))


def test_a_number_that_ends_two_names_stands_for_neither() -> None:
    assert join(["7"], ["a_7.jpg", "b_007.jpg"])[0] == {}


def test_a_tally_keeps_ten_examples_and_counts_all() -> None:
    tally = Tally.of(map(str, range(1000)))
    assert (tally.count, len(tally.examples)) == (1000, 10)
    assert str(tally) == "'0', '1', '2', ..."


def test_cocos_numbers_are_kept_beside_the_file_names(tmp_path: Path) -> None:
    """An id written as text and one written as a number are the same."""
    images = [{"id": 7, "file_name": "000000000003.jpg"}, {"id": "9", "file_name": "000000000007.jpg"}]
    notes = [{"image_id": "7", "caption": "seven"}, {"image_id": 9, "caption": "nine"}]
    path = tmp_path / "captions_val.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    pairs = read_pairs(path)
    assert pairs.source_ids == {"7": "000000000003.jpg", "9": "000000000007.jpg"}
    assert [row.captions for row in pairs] == [("seven",), ("nine",)]
    assert pairs.split("val").source_ids == pairs.source_ids
