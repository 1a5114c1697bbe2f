"""Roots: the folders from which files may be read, with all links resolved."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path


class Roots:
    """A set of folders that files may be read from; `folders` of None allows every place.

    A file is inside if its real path is, whatever links lead to it.
    """

    def __init__(self, folders: Iterable[str | Path] | None) -> None:
        self.folders = None if folders is None else tuple(dict.fromkeys(map(os.path.realpath, folders)))

    def contains(self, path: str | Path) -> bool:
        """Whether a path, which need not exist, leads inside one of the folders with all links followed."""
        return self.real(path) is not None

    def real(self, path: str | Path) -> Path | None:
        """The path with all links followed; None if that is outside the folders, or if the path is relative."""
        if self.folders is None:
            return Path(path)
        try:
            real = os.path.realpath(path)
            return Path(real) if Path(path).is_absolute() and is_inside(real, self.folders) else None
        except (OSError, ValueError):  # a NUL, a loop of links, longer than the system takes
            return None

    def contains_open(self, opened: os.stat_result, path: str | Path) -> bool:
        """Whether a file that was opened by `path` is the one to which `path` leads inside the folders.

        `opened` is the status of its descriptor. A link that was replaced before, between or after does not matter:
        what was opened has a real path inside the folders.
        """
        if self.folders is None:
            return True
        real = self.real(Path(path).absolute())
        try:
            return real is not None and os.path.samestat(opened, real.lstat())
        except OSError:  # it is gone
            return False

    def checker(self) -> Callable[[str | Path], bool]:
        """`contains` for many files in few folders: each folder is resolved once."""

        @functools.lru_cache(maxsize=1_024)
        def holds_folder(folder: str) -> bool:
            return self.contains(folder)

        def holds(path: str | Path) -> bool:
            folder, name = os.path.split(path)
            try:
                plain = name not in ("", os.curdir, os.pardir) and not os.path.islink(path)  # noqa: PTH114 (called a million times)
            except ValueError:  # a NUL
                return False
            return holds_folder(folder) if plain else self.contains(path)

        return self.contains if self.folders is None else holds

    def __or__(self, other: Roots) -> Roots:
        """The folders of both."""
        if self.folders is None or other.folders is None:
            return ANYWHERE
        return Roots((*self.folders, *other.folders))


def is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of some folders or lies below one, by its name; the file system is not accessed."""
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def expand_home(path: str | Path) -> str:
    """A path with `~` replaced by the user's home folder; `~other` stays as it is, without a look-up."""
    text = os.fspath(path)
    own = text.startswith("~") and text[1:2] in ("", "/", os.sep)
    return os.path.expanduser(text) if own else text  # noqa: PTH111 (Path's raises for unknown users)


ANYWHERE = Roots(None)
OUTSIDE = "outside"  # the reason of a skipped file that lies outside the roots
