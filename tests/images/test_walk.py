"""Walking folders: which names are read, which folders are left out, and what is counted as not read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diptych.images.skipped import Skipped
from diptych.images.suffixes import IMAGE_SUFFIXES, UnreadFiles, describe_unread, is_image_file, unread_kinds
from diptych.images.system_folders import SYSTEM_FOLDERS, is_system_folder
from diptych.images.walk import is_hidden, is_left_out, walk


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name, "JPEG")


def names(root: Path, **options: object) -> list[str]:
    files = walk(root, **options)
    return sorted(Path(file.path).relative_to(root).as_posix() for file in files if not isinstance(file, Skipped))


@pytest.mark.parametrize(
    "suffix", ["HIF", "mpo", "jps", "insp", "jfi", "jif", "heics", "avifs", "apng", "dib", "pjpeg"]
)
def test_the_names_that_cameras_and_phones_give_their_files_are_read_in_either_case(tmp_path: Path, suffix: str):
    make(tmp_path, f"a.{suffix}", f"b.{suffix.upper()}")
    assert names(tmp_path) == [f"a.{suffix}", f"b.{suffix.upper()}"]


def test_no_suffix_is_both_read_and_counted_as_not_read():
    assert all(is_image_file(f"a{suffix}") for suffix in IMAGE_SUFFIXES)
    assert not unread_kinds(dict.fromkeys(IMAGE_SUFFIXES, 1))


def test_what_is_not_read_is_counted_by_suffix_and_named_by_kind(tmp_path: Path):
    make(tmp_path, "a.jpg", "1.CR2", "2.cr2", "sub/3.nef", "4.jxl", "5.svg", "6.MOV", "7.psd", "8.txt", "no-suffix")
    make(tmp_path, ".hidden.cr2", "#recycle/9.cr2")
    unread = UnreadFiles()
    assert names(tmp_path, unread=unread) == ["a.jpg"]
    counts = unread.by_suffix()
    assert counts == {".cr2": 2, ".nef": 1, ".jxl": 1, ".svg": 1, ".mov": 1, ".psd": 1, ".txt": 1}
    assert describe_unread(counts) == (
        "RAW photographs 3 (.cr2 2, .nef 1), JPEG XL images 1 (.jxl 1), vector drawings 1 (.svg 1), "
        "videos 1 (.mov 1), images of other formats 1 (.psd 1)"
    )
    assert describe_unread({".txt": 2}) == ""
    assert describe_unread({".txt": 2}, others=True) == "other files 2 (.txt 2)"


def test_many_different_suffixes_take_little_memory():
    unread = UnreadFiles()
    for number in range(5_000):
        unread.note(f"a.{number}")
        unread.note("b." + "x" * 100)
    assert len(unread.counts) == 1_000


@pytest.mark.parametrize("pattern", SYSTEM_FOLDERS)
def test_every_system_folder_is_left_out_in_any_case_unless_asked_for(tmp_path: Path, pattern: str):
    folder = pattern.replace("*", "x")
    make(tmp_path, "kept/a.jpg", f"{folder.upper()}/b.jpg", f"deep/er/{folder}/sub/c.jpg")
    assert names(tmp_path) == ["kept/a.jpg"]
    if not folder.startswith("."):  # hidden in any case
        assert len(names(tmp_path, skip_system_folders=False)) == 3


def test_the_originals_of_a_photo_library_are_read_and_its_previews_are_not(tmp_path: Path):
    library = "My Photos.photoslibrary"
    make(tmp_path, f"{library}/originals/0/a.jpg", f"{library}/resources/derivatives/a.jpg", "resources/b.jpg")
    assert names(tmp_path) == [f"{library}/originals/0/a.jpg", "resources/b.jpg"]


def test_files_and_folders_with_like_names_are_read(tmp_path: Path):
    make(tmp_path, "recycle/a.jpg", "snapshot/b.jpg", "#recycle.jpg", "recycled.jpg", "Recycled things/c.jpg")
    assert len(names(tmp_path)) == 5


def test_the_folder_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path):
    make(tmp_path, "#recycle/a.jpg")
    assert names(tmp_path / "#recycle") == ["a.jpg"]


def test_watching_and_data_sets_judge_names_as_the_walk_does():
    assert is_hidden("$Recycle.Bin")
    assert is_hidden("._a.jpg")
    assert is_left_out("/lib/a.photoslibrary/resources/b.jpg", "/lib")
    assert not is_left_out("/lib/a.photoslibrary/resources/b.jpg", "/lib", skip_system_folders=False)
    assert is_left_out("/lib/a/.hidden", "/lib", skip_system_folders=False)
    assert not is_system_folder("resources")
