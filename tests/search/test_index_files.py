"""Sources of an index: walking folders, names, EXIF, data sets, shards and precomputed embeddings."""

from __future__ import annotations

import io
import os
import tarfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from diptych.data.containers import image_at
from diptych.data.formats.image_paths import image_files
from diptych.data.formats.read import read_pairs
from diptych.errors import DataError, ImageError
from diptych.images.decode import decode, read_bytes
from diptych.images.exclusions import Exclusions
from diptych.images.exif import read_image_metadata
from diptych.images.paths import from_text, path_id, to_text
from diptych.images.skipped import Skipped
from diptych.images.walk import ImageFile, image_paths, walk
from diptych.search.add_report import AddReport, write_skipped
from diptych.search.sources import Folder, Item, source_of
from tests.broken import encoded


def _names(root: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    exclusions = Exclusions({str(root): exclude})
    return [
        file.path.removeprefix(f"{to_text(root)}/") for file in walk(root, exclusions) if isinstance(file, ImageFile)
    ]


def _write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded("PNG", seed))
    return path


# walking


def test_images_are_found_in_order_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "jpg"):
        _write(tmp_path / name)
    assert _names(tmp_path) == ["a.jpg", "b.PNG", "deep/er/c.webp"]


def test_hidden_junk_and_excluded_names_are_left_out(tmp_path: Path) -> None:
    kept = ["a.png", "raw/a.png"]
    for name in (*kept, ".a.png", ".git/a.png", "@eaDir/a.png", "Backup/a.png", "raw/2019/a.png", "a.thumb.png"):
        _write(tmp_path / name)
    assert _names(tmp_path, ("Backup", "raw/2019", "*.thumb.png")) == kept


def test_a_folder_counts_what_is_not_read_once_for_each_pass_and_may_enter_system_folders(tmp_path: Path) -> None:
    _write(tmp_path / "a.jpg")
    _write(tmp_path / "#recycle" / "b.jpg")
    for name in ("1.CR2", "2.cr2", "3.mov"):
        (tmp_path / name).touch()
    folder = Folder(tmp_path)
    for _ in range(2):
        assert len(list(folder.items())) == 1
        assert folder.unread.by_suffix() == {".cr2": 2, ".mov": 1}
    assert len(list(Folder(tmp_path, skip_system_folders=False).items())) == 2


def test_a_report_names_what_was_not_read() -> None:
    report = AddReport(new=1, unread={".cr2": 2, ".txt": 3})
    assert report.unread_summary() == "RAW photographs 2 (.cr2 2)"
    assert report.to_dict()["unread"] == {".cr2": 2, ".txt": 3}
    nothing = AddReport(unread={".cr2": 2, ".txt": 3})
    assert nothing.unread_summary() == "RAW photographs 2 (.cr2 2), other files 3 (.txt 3)"


def test_an_index_and_a_data_set_leave_out_the_same_names(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "._a.png",
        ".b.png",
        "__MACOSX/a.png",
        ".git/a.png",
        "lost+found/a.png",
        "c/d.png",
        "c/._d.png",
    ):
        _write(tmp_path / name)
    assert _names(tmp_path) == ["a.png", "c/d.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)] == ["a.png", "c/d.png"]


def test_a_data_set_is_searched_to_a_depth_and_not_through_links(tmp_path: Path) -> None:
    for name in ("1/a.png", "1/2/b.png", "1/2/3/c.png", "1/2/3/4/d.png"):
        _write(tmp_path / "set" / name)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "set" / "1")
    (tmp_path / "set" / "e.png").symlink_to(tmp_path / "set" / "1" / "a.png")
    found = [path.relative_to(tmp_path / "set").as_posix() for path in image_paths(tmp_path / "set", depth=3)]
    assert found == ["e.png", "1/a.png", "1/2/b.png", "1/2/3/c.png"]
    assert list(image_paths(tmp_path / "nowhere")) == []


def test_a_shard_leaves_out_hidden_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in {
            "./0.png": encoded("PNG", 0),
            "./0.txt": b"a cat",
            "./._0.png": b"resource fork",
            "__MACOSX/1.png": encoded("PNG", 1),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert [(row.image_id, row.captions) for row in read_pairs(tmp_path / "s.tar")] == [("s/0", ("a cat",))]


def test_a_skipped_file_whose_name_is_not_utf8_can_be_reported(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    with pytest.raises(ImageError) as fault:
        read_bytes(tmp_path / name)
    write_skipped(tmp_path / "skipped.json", [Skipped(to_text(name), "missing", str(fault.value))])
    assert r"\\xff.jpg' does not exist" in (tmp_path / "skipped.json").read_text("utf-8")  # JSON doubles it


def test_links_neither_loop_nor_repeat_a_folder(tmp_path: Path) -> None:
    _write(tmp_path / "library" / "real" / "a.png")
    _write(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "library" / "again").symlink_to(tmp_path / "library" / "real")
    (tmp_path / "library" / "real" / "loop").symlink_to(tmp_path / "library")
    (tmp_path / "library" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "library" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    assert _names(tmp_path / "library") == ["real/a.png", "other/b.png"]


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a.png")
    locked = tmp_path / "locked"
    _write(locked / "b.png")
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # an administrator reads all: what is not there any more cannot be listed either
        scan = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: scan(f"{path}-gone" if path == str(locked) else path))
    found = list(walk(tmp_path))
    locked.chmod(0o700)
    assert [each.reason for each in found if isinstance(each, Skipped)] == ["unreadable"]
    assert [Path(each.path).name for each in found if isinstance(each, ImageFile)] == ["a.png"]


def test_a_root_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        list(walk(tmp_path / "nowhere"))


# names


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_name_comes_back_byte_for_byte(name: bytes) -> None:
    text = to_text(os.fsdecode(name))
    text.encode()  # as a table holds it
    assert os.fsencode(from_text(text)) == os.fsencode(Path(os.fsdecode(name)))


def test_a_private_code_point_and_its_byte_stay_distinct() -> None:
    assert os.fsencode(from_text(to_text("\U0010ff80"))) == "\U0010ff80".encode()
    assert to_text(os.fsdecode(b"\x80")) != to_text("\U0010ff80")


@pytest.mark.parametrize(
    "name", ["naïve café.png", "犬 と 猫.png", "🐶.png", "e\u0301.png", 'o\'hara "x".png', " .png"]
)
def test_unusual_names_survive(name: str, tmp_path: Path) -> None:
    _write(tmp_path / name)
    (item,) = Folder(tmp_path).items()
    assert isinstance(item, Item)
    assert from_text(item.path).name == name
    assert read_bytes(image_at(item.path)) == encoded("PNG")


def test_a_name_that_is_not_utf8_is_indexed(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(raw)).write_bytes(encoded("PNG"))
    except OSError:
        pytest.skip("this file system takes only valid text")
    (item,) = Folder(tmp_path).items()
    assert isinstance(item, Item)
    item.path.encode()
    assert decode(image_at(item.path)).size == (48, 40)


def test_an_id_depends_on_the_path_alone() -> None:
    assert path_id("/a/b.jpg") == path_id("/a/b.jpg") != path_id("/a/c.jpg")


# facts


def _photograph(width: int, height: int, **tags: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = tags.get("make", "Canon"), tags.get("model", "Canon EOS 5D")
    exif[ExifTags.Base.Orientation] = tags.get("orientation", 1)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = tags.get("taken", "2019:07:04 12:30:05")
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitude], place[ExifTags.GPS.GPSLatitudeRef] = tags.get("south", (33.0, 51.0, 30.6)), "S"
    place[ExifTags.GPS.GPSLongitude], place[ExifTags.GPS.GPSLongitudeRef] = (151.0, 12.0, 36.0), "E"
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_exif_gives_upright_size_date_camera_and_coordinates() -> None:
    facts = read_image_metadata(_photograph(40, 30, orientation=6))
    assert (facts.width, facts.height) == (30, 40)
    assert facts.taken == datetime(2019, 7, 4, 12, 30, 5)
    assert facts.camera == "Canon EOS 5D"
    assert (facts.latitude, facts.longitude) == (pytest.approx(-33.8585), pytest.approx(151.21))


def test_make_and_model_are_joined_where_the_model_does_not_name_the_make() -> None:
    assert read_image_metadata(_photograph(4, 4, make="SONY", model="DSC-RX100\0")).camera == "SONY DSC-RX100"


@pytest.mark.parametrize(
    "tags", [{"taken": "0000:00:00 00:00:00"}, {"taken": "2019:13:40 99:99:99"}, {"taken": "soon"}]
)
def test_an_implausible_date_is_ignored(tags: dict[str, object]) -> None:
    assert read_image_metadata(_photograph(4, 4, **tags)).taken is None


def test_an_impossible_latitude_is_ignored() -> None:
    facts = read_image_metadata(_photograph(4, 4, south=(200.0, 0.0, 0.0)))
    assert (facts.latitude, facts.longitude) == (None, None)


def test_damaged_exif_counts_as_none() -> None:
    data = bytearray(_photograph(40, 30))
    at = data.index(b"Exif\0\0") + 6
    data[at + 8 : at + 60] = b"\xff" * 52
    assert (read_image_metadata(bytes(data)).width, read_image_metadata(bytes(data)).height) == (40, 30)


def test_an_image_without_exif_has_its_size() -> None:
    facts = read_image_metadata(encoded("GIF"))
    assert (facts.width, facts.height, facts.taken, facts.camera) == (48, 40, None, None)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_avif_and_heif_are_read(format: str) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    assert (read_image_metadata(encoded(format)).width, decode(encoded(format)).size) == (48, (48, 40))


# data sets and shards


def write_shard(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        files = [
            file
            for at in range(2)
            for file in ((f"{at:03}.png", encoded("PNG", at)), (f"{at:03}.txt", f"picture {at}".encode()))
        ]
        for name, data in files:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_images_in_a_tar_are_found_by_member_name(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.tar")
    items = [item for item in source_of(shard).items() if isinstance(item, Item)]
    assert [item.path for item in items] == [f"{to_text(shard)}/{at:03}.png" for at in range(2)]
    assert [read_bytes(image_at(item.path)) for item in items] == [encoded("PNG", at) for at in range(2)]


def test_a_member_that_is_no_longer_in_its_tar_is_missing(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.tar")
    with pytest.raises(ImageError) as caught:
        image_at(f"{to_text(shard)}/999.png")
    assert caught.value.reason == "missing"


def test_an_image_inside_a_parquet_file_is_found_by_its_id(tmp_path: Path) -> None:
    images = [{"bytes": encoded("PNG", at), "path": f"{at}.png"} for at in range(2)]
    pq.write_table(pa.table({"image": images, "caption": ["one", "two"]}), tmp_path / "set.parquet")
    items = [item for item in source_of(tmp_path / "set.parquet").items() if isinstance(item, Item)]
    assert [item.caption for item in items] == ["one", "two"]
    assert [read_bytes(image_at(item.path)) for item in items] == [encoded("PNG", at) for at in range(2)]


def test_a_folder_is_walked_unless_it_is_to_be_read_as_a_data_set(scenes: Path) -> None:
    walked = [item for item in source_of(scenes).items() if isinstance(item, Item)]
    read = [item for item in source_of(scenes, captions=True).items() if isinstance(item, Item)]
    assert {item.path for item in walked} == {item.path for item in read}
    assert {item.caption for item in walked} == {None}
    assert all(len(item.caption.split("\n")) == 5 for item in read if item.caption)


# vectors made elsewhere


def stored_vectors(folder: Path, dim: int = 16) -> np.ndarray:
    """Two files of seven vectors, the last of them zero, as clip-retrieval writes them."""
    vectors = np.random.default_rng(0).standard_normal((14, dim)).astype(np.float16)
    vectors[-1] = 0
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part in range(2):
        rows = range(7 * part, 7 * part + 7)
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", vectors[rows.start : rows.stop])
        told = {"image_path": [f"{row:09}.jpg" for row in rows], "caption": [f"picture {row}" for row in rows]}
        pq.write_table(pa.table(told), folder / "metadata" / f"metadata_{part}.parquet")
    return vectors
