"""The picture files below a folder: each once, links followed without looping, hidden and excluded ones left out."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.errors import DataError
from diptych.images.decode import IMAGE_SUFFIXES
from diptych.images.paths import from_text, to_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.images.skipped import Skipped

_OUTSIDE = "a link that leads out of the folder; --follow-links reads what it leads to"

# Folders in which systems keep thumbnails, waste and what was thrown away.
JUNK = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")


@dataclass(frozen=True, slots=True)
class File:
    """A picture file as the folder lists it: its path as text, bytes, and time of last change in nanoseconds."""

    path: str
    size: int
    mtime: int


def walk(root: Path, exclude: Sequence[str] = (), roots: Roots = ANYWHERE) -> Iterator[File | Skipped]:
    """Every picture file below `root`, by its suffix, and what cannot be looked into, with the reason.

    Names that begin with a dot, the folders in `JUNK`, and whatever matches a pattern of `exclude` are left out; a
    pattern (`*.thumb.jpg`, `Backup`, `2019/raw/*`) is compared with the name and with the path below `root`. Linked
    folders are followed after all others, and each folder is entered once, so links neither loop nor repeat files. What
    a link leads to outside `roots` is skipped.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder; check the path, or whether its drive is mounted")
    entered: set[tuple[int, int]] = set()
    folders: list[str] = [str(root)]
    links: list[str] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            there = os.stat(folder)  # noqa: PTH116 (a Path costs three times as much, a million times)
            if (there.st_dev, there.st_ino) in entered:
                continue
            entered.add((there.st_dev, there.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(shown(folder), "unreadable", f"the folder cannot be listed ({error.strerror})")
            continue
        inside: list[str] = []
        for entry in entries:
            if is_excluded(entry.path, str(root), exclude):
                continue
            try:
                if entry.is_dir():
                    if roots.hold(entry.path):
                        (links if entry.is_symlink() else inside).append(entry.path)
                    else:
                        yield Skipped(shown(entry.path), OUTSIDE, _OUTSIDE)
                elif is_image_file(entry.name):
                    if entry.is_symlink() and not roots.hold(entry.path):
                        yield Skipped(shown(entry.path), OUTSIDE, _OUTSIDE)
                    elif entry.is_file():
                        found = entry.stat()
                        yield File(to_text(entry.path), found.st_size, change_time(found))
            except (OSError, ValueError) as error:
                yield Skipped(shown(entry.path), "unreadable", f"{error}; rename it or check its permissions")
        folders += reversed(inside)


def is_excluded(path: str, root: str, exclude: Sequence[str] = ()) -> bool:
    """Whether the last name of `path`, which lies below `root`, is hidden, junk, or matches a pattern."""
    name = os.path.basename(path)  # noqa: PTH119 (as above)
    if name.startswith(".") or name in JUNK:
        return True
    below = path[len(root) :].strip(os.sep).replace(os.sep, "/") if exclude else ""
    return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(below, pattern) for pattern in exclude)


def change_time(found: os.stat_result) -> int:
    """When a file was last changed, in nanoseconds, within the 64 bits of a row: the years 1677 to 2262."""
    return min(max(found.st_mtime_ns, 1 - 2**63), 2**63 - 1)


def shown(path: str | Path) -> str:
    """A path as people can read it: undecodable bytes as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def is_gone(text: str) -> bool:
    """Whether the file of a row's path is not there: neither itself, nor a shard that it may lie in."""
    path = from_text(text)
    return not os.path.lexists(path) and not any(parent.is_file() for parent in path.parents)


def is_image_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (as above)
