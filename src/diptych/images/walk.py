"""Image files below a folder: one rule for hidden names, system folders, links and excluded patterns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.errors import DataError
from diptych.images.decode import IMAGE_SUFFIXES
from diptych.images.exclusions import NOTHING, Exclusions
from diptych.images.paths import from_text, to_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.images.skipped import Skipped

_OUTSIDE = "a link that leads out of the folder; --follow-links reads what it leads to"

JUNK = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders in which operating systems keep thumbnails, resource forks and deleted files."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file as its folder lists it: path as text, size in bytes, time of last change in nanoseconds."""

    path: str
    size: int
    mtime: int
    is_link: bool = False


def walk(root: Path, exclude: Exclusions = NOTHING, roots: Roots = ANYWHERE) -> Iterator[ImageFile | Skipped]:
    """Every image file below `root`, by suffix, and each file or folder that cannot be read, with the reason.

    Hidden names (see `is_hidden`) and what `exclude` matches are left out. Linked folders are entered after all
    others, and each folder is entered once, so links neither loop nor repeat files. A link that leads out of `roots` is
    reported as skipped.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder; check the path, or whether its drive is mounted")
    for entry in _entries(str(root), exclude, roots):
        if isinstance(entry, Skipped):
            yield entry
            continue
        try:
            is_link = entry.is_symlink()
            if is_link and not roots.contains(entry.path):
                yield Skipped(shown(entry.path), OUTSIDE, _OUTSIDE)
            elif entry.is_file():
                status = entry.stat()
                yield ImageFile(to_text(entry.path), status.st_size, change_time(status), is_link)
        except (OSError, ValueError) as error:
            yield Skipped(shown(entry.path), "unreadable", f"{error}; rename it or check its permissions")


def image_paths(root: Path, depth: int | None = None) -> Iterator[Path]:
    """The paths of the image files below `root`, each folder's in order of name, by the rule of `walk`.

    Folders more than `depth` levels below `root` are left out, and linked folders are not entered. Files are not
    looked at: a path may be that of a broken link. A `root` that is not a folder has none.
    """
    for entry in _entries(str(root), depth=depth, enter_links=False):
        if not isinstance(entry, Skipped):
            yield Path(entry.path)


def _entries(
    root: str,
    exclude: Exclusions = NOTHING,
    roots: Roots = ANYWHERE,
    *,
    depth: int | None = None,
    enter_links: bool = True,
) -> Iterator[os.DirEntry[str] | Skipped]:
    """The entries with the name of an image, folder by folder, and the folders that cannot be entered."""
    entered: set[tuple[int, int]] = set()
    folders, links = [(root, 0)], list[tuple[str, int]]()
    while folders or links:
        folder, level = folders.pop() if folders else links.pop(0)
        subfolders: list[tuple[str, int]] = []
        try:
            entries = _listing(folder, entered)
        except OSError as error:
            yield Skipped(shown(folder), "unreadable", f"the folder cannot be listed ({error.strerror})")
            continue
        for entry in entries:
            if is_hidden(entry.name):
                continue
            try:
                is_folder, is_link = entry.is_dir(), entry.is_symlink()
            except OSError as error:
                yield Skipped(shown(entry.path), "unreadable", f"{error}; rename it or check its permissions")
                continue
            if exclude.excludes(entry.path, is_folder=is_folder):
                continue
            if not is_folder:
                if is_image_file(entry.name):
                    yield entry
            elif not roots.contains(entry.path):
                yield Skipped(shown(entry.path), OUTSIDE, _OUTSIDE)
            elif (depth is None or level < depth) and (enter_links or not is_link):
                (links if is_link else subfolders).append((entry.path, level + 1))
        folders += reversed(subfolders)


def _listing(folder: str, entered: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """The entries of a folder in order of name; none if it is among those `entered` already."""
    status = os.stat(folder)  # noqa: PTH116 (a Path costs three times as much, a million times)
    key = (status.st_dev, status.st_ino)
    if key in entered:
        return []
    entered.add(key)
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden (`.name`, macOS's `._name.jpg`) or one of the system folders in `JUNK`."""
    return name.startswith(".") or name in JUNK


def is_left_out(path: str, root: str, exclude: Exclusions = NOTHING) -> bool:
    """Whether `walk(root, exclude)` leaves out a file or folder below `root`, for its own name or a parent's."""
    is_folder = os.path.isdir(path)  # noqa: PTH112 (called for every change of a watched folder)
    while len(path) > len(root):
        if is_hidden(os.path.basename(path)) or exclude.excludes(path, is_folder=is_folder):  # noqa: PTH119
            return True
        path, is_folder = os.path.dirname(path), True  # noqa: PTH120
    return False


def change_time(status: os.stat_result) -> int:
    """The time of last change in nanoseconds, clamped to the 64 bits of a table's column: the years 1677 to 2262."""
    return min(max(status.st_mtime_ns, 1 - 2**63), 2**63 - 1)


def shown(path: str | Path) -> str:
    """A path as text for messages, with undecodable bytes as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def is_image_file(name: str) -> bool:
    """Whether a name has the suffix of an image format that diptych decodes."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (as above)
