"""Labelled pairs: the spellings of a label, and names that lead to no file of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.data.labelled import LABELS, is_labelled, read_labelled_pairs
from diptych.errors import DataError
from diptych.matching.match_table import read_match_table
from tests.broken import encoded


def _read(folder: Path, *lines: str) -> list[bool]:
    (folder / "pairs.csv").write_text("\n".join(["image,caption,label", *lines]))
    return read_labelled_pairs(folder / "pairs.csv").labels.tolist()


@pytest.mark.parametrize("spelling", [*LABELS, "1.0", "0.0", "1.", "TRUE", "False", "No-Match", " yes "])
def test_every_accepted_spelling_of_a_label_is_read_for_what_it_says(tmp_path: Path, spelling: str) -> None:
    wanted = spelling.strip().lower() in ("1", "1.0", "1.", "true", "yes", "match")
    assert _read(tmp_path, f"a.jpg,a dog,{spelling}", "b.jpg,a cat,1") == [wanted, True]


@pytest.mark.parametrize("spelling", ["-1", "2", "1.5", "0.5", "-0", "maybe", "", "nan", "-", "10", "no_"])
def test_any_other_label_is_refused_with_its_line_and_value(tmp_path: Path, spelling: str) -> None:
    with pytest.raises(DataError, match=rf"line 3: invalid label '{spelling}'; use one of: 1, true, yes"):
        _read(tmp_path, "a.jpg,a dog,1", f"b.jpg,a cat,{spelling}")


def test_pairs_that_are_listed_twice_or_with_both_labels_are_counted(tmp_path: Path) -> None:
    _read(tmp_path, "a.jpg,x,1", "a.jpg,x,0", "b.jpg,y,1", "b.jpg,y,1", "c.jpg,z,0")
    notes = read_labelled_pairs(tmp_path / "pairs.csv").images.notes
    assert notes.counts == {"contradictory_labels": 1, "repeated": 2}


@pytest.mark.parametrize("read", [read_labelled_pairs, read_match_table])
def test_a_table_of_pairs_takes_no_file_of_another_folder(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "images" / "0000").mkdir(parents=True)
    (tmp_path / "images" / "0000" / "000.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "images" / "b.jpg").write_bytes(encoded("JPEG", 2))
    names = ["0000/000.jpg", "0001/000.jpg", "/old/b.jpg", "/older/b.jpg"]
    (tmp_path / "t.csv").write_text("image,caption,label\n" + "".join(f"{name},x,1\n" for name in names))
    table = read(tmp_path / "t.csv")
    images = [row.image for row in table.images] if read is read_labelled_pairs else table.images
    assert [image.exists() for image in images] == [True, False, False, False]
    notes = table.images.notes if read is read_labelled_pairs else table.notes
    assert notes.counts == {"shared_files": 2}


def test_several_texts_of_one_image_are_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "t.csv").write_text("image,caption\n/old/a.jpg,x\n/old/a.jpg,y\n")
    table = read_match_table(tmp_path / "t.csv")
    assert [image.exists() for image in table.images] == [True, True]
    assert table.notes.counts == {}


def test_labelled_pairs_in_parquet_keep_their_labels(tmp_path: Path) -> None:
    table = pa.table({"image": ["a.jpg", "b.jpg"], "caption": ["x", "y"], "Label": [1.0, 0.0]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert is_labelled(tmp_path / "p.parquet")
    assert read_labelled_pairs(tmp_path / "p.parquet").labels.tolist() == [True, False]
