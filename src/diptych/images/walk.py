"""Image files below a folder: one rule for hidden names, system folders, links and excluded patterns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.errors import DataError
from diptych.images.exclusions import NOTHING, Exclusions
from diptych.images.paths import to_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.images.skipped import Skipped
from diptych.images.suffixes import UnreadFiles, is_image_file
from diptych.images.system_folders import is_system_folder

_OUTSIDE = "a link that leads out of the folder; `follow_links` reads what it leads to"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file as its folder lists it: path as text, size in bytes, time of last change in nanoseconds."""

    path: str
    size: int
    mtime: int
    is_link: bool = False


def walk(
    root: Path,
    exclude: Exclusions = NOTHING,
    roots: Roots = ANYWHERE,
    *,
    skip_system_folders: bool = True,
    unread: UnreadFiles | None = None,
) -> Iterator[ImageFile | Skipped]:
    """Every image file below `root`, by suffix, and each file or folder that cannot be read, with the reason.

    Names that begin with a dot, the folders of `system_folders.SYSTEM_FOLDERS` unless `skip_system_folders` is False,
    and what `exclude` matches are left out. Linked folders are entered after all others, and each folder is entered
    once, so links neither loop nor repeat files. A link that leads out of `roots` is reported as skipped. Files with
    the suffix of no image are counted in `unread`.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder; check the path, or whether its drive is mounted")
    for entry in _entries(str(root), exclude, roots, skip_system_folders=skip_system_folders, unread=unread):
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
    unread: UnreadFiles | None = None,
    depth: int | None = None,
    skip_system_folders: bool = True,
    enter_links: bool = True,
) -> Iterator[os.DirEntry[str] | Skipped]:
    """The entries with the name of an image, folder by folder, and the folders that cannot be entered."""
    entered: set[tuple[int, int]] = set()
    folders, links = [(root, 0)], list[tuple[str, int]]()
    while folders or links:
        folder, level = folders.pop() if folders else links.pop(0)
        subfolders: list[tuple[str, int]] = []
        for entry in _visible(folder, entered, exclude, skip_system_folders):
            if isinstance(entry, Skipped):
                yield entry
            elif not entry.is_dir():
                if is_image_file(entry.name):
                    yield entry
                elif unread is not None:
                    unread.note(entry.name)
            elif not roots.contains(entry.path):
                yield Skipped(shown(entry.path), OUTSIDE, _OUTSIDE)
            elif (depth is None or level < depth) and (enter_links or not entry.is_symlink()):
                (links if entry.is_symlink() else subfolders).append((entry.path, level + 1))
        folders += reversed(subfolders)


def _visible(
    folder: str, entered: set[tuple[int, int]], exclude: Exclusions, skip_system_folders: bool
) -> Iterator[os.DirEntry[str] | Skipped]:
    """The entries of a folder that are not left out, in order of name, and those that cannot be looked at."""
    try:
        entries = _listing(folder, entered)
    except OSError as error:
        yield Skipped(shown(folder), "unreadable", f"the folder cannot be listed ({error.strerror})")
        return
    parent = os.path.basename(folder)  # noqa: PTH119 (a Path costs three times as much, a million times)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, _ = entry.is_dir(), entry.is_symlink()
        except OSError as error:
            yield Skipped(shown(entry.path), "unreadable", f"{error}; rename it or check its permissions")
            continue
        is_left = is_folder and skip_system_folders and is_system_folder(entry.name, parent)
        if not is_left and not exclude.excludes(entry.path, is_folder=is_folder):
            yield entry


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
    """Whether a file or folder is hidden (`.name`, macOS's `._name.jpg`) or has the name of a system folder."""
    return name.startswith(".") or is_system_folder(name)


def is_left_out(path: str, root: str, exclude: Exclusions = NOTHING, *, skip_system_folders: bool = True) -> bool:
    """Whether `walk(root, exclude)` skips a path below `root`, because of its own name or that of a parent folder."""
    is_folder = os.path.isdir(path)  # noqa: PTH112 (called for every change of a watched folder)
    while len(path) > len(root):
        parents, name = os.path.split(path)
        parent = os.path.basename(parents)  # noqa: PTH119 (as above)
        if name.startswith(".") or (is_folder and skip_system_folders and is_system_folder(name, parent)):
            return True
        if exclude.excludes(path, is_folder=is_folder):
            return True
        path, is_folder = parents, True
    return False


def change_time(status: os.stat_result) -> int:
    """The time of last change in nanoseconds, clamped to the 64 bits of a table's column: the years 1677 to 2262."""
    return min(max(status.st_mtime_ns, 1 - 2**63), 2**63 - 1)


def shown(path: str | Path) -> str:
    """A path as text for messages, with undecodable bytes as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")
