"""Reading images inside folders: the file that was opened decides, whatever takes its name meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diptych.errors import ImageError
from diptych.images import image_bytes
from diptych.images.image_bytes import Slice, read_bytes
from diptych.images.roots import ANYWHERE, Roots


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return folder


def reason(path: Path | Slice, roots: Roots) -> str:
    with pytest.raises(ImageError) as caught:
        read_bytes(path, roots=roots)
    return caught.value.reason


def test_files_inside_and_links_within_are_read_and_others_are_not(library: Path) -> None:
    (library / "inner.jpg").symlink_to(library / "a.jpg")
    (library / "outer.jpg").symlink_to(library.parent / "secret.jpg")
    (library / "up").symlink_to(library.parent)
    roots = Roots([library])
    assert read_bytes(library / "a.jpg", roots=roots) == read_bytes(library / "inner.jpg", roots=roots) == b"inside"
    assert read_bytes(Slice(library / "a.jpg", 2, 3), roots=roots) == b"sid"
    for path in (library / "outer.jpg", library / "up" / "secret.jpg", library.parent / "secret.jpg"):
        assert reason(path, roots) == reason(Slice(path, 0, 3), roots) == "outside"
        assert read_bytes(path, roots=ANYWHERE) == b"secret"


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_a_link_that_is_there_only_while_the_file_is_opened_is_not_read(
    library: Path, swap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = library / "sub" / "a.jpg"
    target.parent.mkdir()
    target.write_bytes(b"inside")
    (library.parent / "elsewhere").mkdir()
    (library.parent / "elsewhere" / "a.jpg").write_bytes(b"secret")
    inner = image_bytes.open_file
    moved = target if swap == "file" else target.parent
    other = library.parent / "elsewhere" / "a.jpg" if swap == "file" else library.parent / "elsewhere"

    def swapped(path: Path) -> object:
        moved.rename(library / "aside")
        moved.symlink_to(other)
        try:
            return inner(path)
        finally:
            moved.unlink()
            (library / "aside").rename(moved)

    monkeypatch.setattr(image_bytes, "open_file", swapped)
    assert reason(target, Roots([library])) == "outside"
    assert read_bytes(target) == b"secret"  # nothing is checked without roots


def test_a_file_that_is_gone_once_opened_is_not_read(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = image_bytes.open_file

    def removed(path: Path) -> object:
        file = inner(path)
        path.unlink()
        return file

    monkeypatch.setattr(image_bytes, "open_file", removed)
    assert reason(library / "a.jpg", Roots([library])) == "outside"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_that_takes_the_name_of_a_file_is_not_waited_for(library: Path) -> None:
    os.mkfifo(library / "pipe.jpg")
    assert reason(library / "pipe.jpg", Roots([library])) == "unreadable"
