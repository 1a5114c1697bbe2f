"""Classes: names in prompts from the names of class folders, and labels that are alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.data.classes import Classes, class_names, classes_in, read_class_folders
from diptych.errors import DataError
from tests.broken import encoded


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("red_fox", "cat"), ("red fox", "cat")),
        (("GoldenRetriever", "cat"), ("Golden Retriever", "cat")),
        (("goldenRetriever",), ("golden Retriever",)),
        (("McDonald", "iPhone", "HDTV", "Boeing747"), ("McDonald", "iPhone", "HDTV", "Boeing747")),
        (("n02119022", "n01440764"), ("red fox", "tench")),
        (("n02119022", "n99999999"), ("red fox", "n99999999")),
        (("n02119022", "other"), ("n02119022", "other")),
        (("001.Black_Tern", "002.Red_Fox"), ("Black Tern", "Red Fox")),
        (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ("Chihuahua", "Japanese spaniel")),
        (("1-a", "2-a"), ("1-a", "2-a")),
    ],
)
def test_folder_names_become_words(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert class_names(labels) == names


@pytest.mark.parametrize(("first", "second"), [("Cat", "cat"), ("red_fox", "Red Fox"), ("red-fox", "red_fox")])
def test_labels_that_are_alike_are_refused_with_both_names(tmp_path: Path, first: str, second: str) -> None:
    """An image of one would have counted as one of the other."""
    for name in (first, second):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(encoded("JPEG"))
    with pytest.raises(DataError, match=rf"'({first}|{second})' and '({first}|{second})' are one label.*merge"):
        classes_in(read_class_folders(tmp_path))


def test_a_label_that_occurs_twice_is_refused() -> None:
    with pytest.raises(DataError, match="label 'a' occurs twice"):
        Classes(("a", "b", "a"), ("a", "b", "a"))
