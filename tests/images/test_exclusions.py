"""Exclusions: patterns as in `.gitignore`, however a folder is spelled, and which of them match nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from diptych.errors import ConfigError
from diptych.images.exclusions import Exclusions
from diptych.images.paths import spellings, texts_of, to_text
from diptych.images.walk import ImageFile, walk

FILES = (
    *("a.png", "a.thumb.png", "keep.thumb.png", "Backup/b.png", "sub/Backup/c.png", "2019/raw/d.png"),
    *("raw/e.png", "sub/raw/deep/f.png", "#odd/g.png", "sub/Backup.png", "caf\udce9/h.png"),
)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of files that are named, not looked at."""
    for name in FILES:
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "library"


def _left_out(library: Path, *patterns: str) -> set[str]:
    """The files that a walk leaves out; rows of an index are judged alike."""
    exclusions = Exclusions({str(library): patterns})
    walked = {
        file.path.removeprefix(f"{to_text(library)}/")
        for file in walk(library, exclusions)
        if isinstance(file, ImageFile)
    }
    left_out = {name for name in FILES if to_text(name) not in walked}
    assert left_out == {name for name in FILES if exclusions.excludes_below(str(library / name))}
    return left_out


BACKUP = {"Backup/b.png", "sub/Backup/c.png"}
RAW = {"2019/raw/d.png", "raw/e.png", "sub/raw/deep/f.png"}
PATTERNS: dict[tuple[str, ...], set[str]] = {
    ("Backup",): BACKUP,
    ("Backup/",): BACKUP,
    ("/Backup",): {"Backup/b.png"},
    ("./Backup",): {"Backup/b.png"},
    ("./Backup/",): {"Backup/b.png"},
    ("sub/Backup",): {"sub/Backup/c.png"},
    ("**/raw/**",): RAW,
    ("**/raw",): RAW,
    ("raw/*",): {"raw/e.png"},
    ("2019/raw",): {"2019/raw/d.png"},
    ("2019/raw/*",): {"2019/raw/d.png"},
    ("*.thumb.png",): {"a.thumb.png", "keep.thumb.png"},
    ("*.thumb.png", "!keep.thumb.png"): {"a.thumb.png"},
    ("#odd",): {"#odd/g.png"},
    ("caf\udce9",): {"caf\udce9/h.png"},
    ("backup",): set(),
    ("",): set(),
}


@pytest.mark.parametrize("patterns", PATTERNS)
def test_patterns_leave_out_what_they_do_in_a_gitignore(patterns: tuple[str, ...], library: Path) -> None:
    assert _left_out(library, *patterns) == PATTERNS[patterns]


@pytest.mark.parametrize("patterns", [key for key in PATTERNS if not key[0].startswith(("./", "#")) and key[0]])
def test_git_leaves_out_the_same(patterns: tuple[str, ...], library: Path) -> None:
    try:
        subprocess.run(["git", "init", "-q", library], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no git")
    (library / ".gitignore").write_bytes(os.fsencode("\n".join(patterns)))
    listed = subprocess.run(
        ["git", "-C", library, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    kept = {os.fsdecode(name) for name in listed.stdout.split(b"\0")}
    assert _left_out(library, *patterns) == set(FILES) - kept


def test_an_absolute_path_leaves_out_that_folder_however_it_is_spelled(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(library)
    for pattern in (library / "Backup", f"{library}/Backup/", tmp_path / "link" / "Backup", f"{library}/sub/../Backup"):
        assert _left_out(library, str(pattern)) == {"Backup/b.png"}, pattern
    assert _left_out(library, f"{library}/*.thumb.png") == {"a.thumb.png", "keep.thumb.png"}
    monkeypatch.chdir(library / "sub")
    assert _left_out(library, "./Backup") == {"sub/Backup/c.png"}
    monkeypatch.setenv("HOME", str(library))
    assert _left_out(library, "~/Backup") == {"Backup/b.png"}
    assert _left_out(library, str(tmp_path / "elsewhere")) == set()


def test_a_linked_folder_is_left_out_by_its_name(library: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(b"")
    (library / "linked").symlink_to(tmp_path / "elsewhere")
    for pattern in ("linked", "linked/", str(library / "linked")):
        walked = walk(library, Exclusions({str(library): [pattern]}))
        assert not any(file.path.endswith("x.png") for file in walked if isinstance(file, ImageFile))


def test_patterns_that_match_nothing_are_known_after_a_walk(library: Path) -> None:
    exclusions = Exclusions({str(library): ("Backup/", "Bakcup", "*.thumb.png", "*.tiff")})
    list(walk(library, exclusions))
    assert exclusions.unmatched(str(library)) == ("Bakcup", "*.tiff")


def test_patterns_of_several_folders_hold_below_their_own(library: Path) -> None:
    exclusions = Exclusions({str(library / "sub"): ["Backup"], str(library): ["raw"]})
    excluded = {name for name in FILES if exclusions.excludes_below(str(library / name))}
    assert excluded == {"sub/Backup/c.png", *RAW}


def test_an_invalid_pattern_is_refused_by_its_name(library: Path) -> None:
    with pytest.raises(ConfigError, match=r"'!' is not a pattern as in .gitignore"):
        Exclusions({str(library): ["!"]})


def test_a_path_is_spelled_with_the_links_of_its_first_folders_resolved(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b").symlink_to(tmp_path / "real" / "deep")
    names = {Path(form).relative_to(tmp_path).as_posix() for form in spellings(tmp_path / "a" / "b" / "x.png")}
    assert names == {"a/b/x.png", "real/b/x.png", "real/deep/x.png"}
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    assert to_text(odd) in texts_of(odd)
    assert to_text(odd) in texts_of(to_text(odd))
