from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.data.samples import library as samples
from diptych.errors import DataError, MissingExtra
from diptych.images.decode import decode, perceptual_hash
from diptych.images.near_duplicates import near_pairs

pytest.importorskip("skimage", reason="the sample library comes with the extra 'samples'")


def test_each_photograph_has_its_query_as_its_one_caption(tmp_path: Path) -> None:
    pairs = samples.photographs(tmp_path)
    assert {row.image_id: row.captions for row in pairs} == {name: (query,) for name, query in samples.QUERIES.items()}
    assert len(pairs) == 15


def test_the_photographs_decode_and_no_two_look_alike(tmp_path: Path) -> None:
    images = [decode(row.image) for row in samples.photographs(tmp_path)]
    assert all(min(image.size) > 150 for image in images)
    assert not len(near_pairs([perceptual_hash(image) for image in images]))


def test_the_folder_reads_as_a_data_set(tmp_path: Path) -> None:
    written = samples.photographs(tmp_path / "library")
    again = read_pairs(tmp_path / "library")
    assert (again.image_ids, again.fingerprint()) == (written.image_ids, written.fingerprint())


def test_the_licence_of_every_photograph_is_written(tmp_path: Path) -> None:
    pairs = samples.photographs(tmp_path)
    licences = (tmp_path / "LICENCES.md").read_text(encoding="utf-8")
    assert all(f"| images/{name} | " in licences for name in pairs.image_ids)


def test_writing_twice_keeps_intact_files_and_replaces_damaged_ones(tmp_path: Path) -> None:
    first = samples.photographs(tmp_path).fingerprint()
    assert samples.photographs(tmp_path).fingerprint() == first
    damaged = tmp_path / "images" / "cat.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    samples.photographs(tmp_path)
    with Image.open(damaged) as image:
        image.load()


def test_a_folder_with_other_captions_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\nmine.jpg,my dog\n")
    with pytest.raises(DataError, match="choose another folder"):
        samples.photographs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["captions.txt"]


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"diptych\[samples\]"):
        samples.photographs(tmp_path)


def test_the_command_line_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "photographs", str(tmp_path / "library")])
    assert not ended.value.code
    assert "15 photographs" in capsys.readouterr().out
    assert len(list((tmp_path / "library" / "images").iterdir())) == 15
