"""Roots: the folders that may be read. A file is inside by its real path, whatever links lead to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path


class Roots:
    """Some folders; None stands for every place there is."""

    def __init__(self, folders: Iterable[str | Path] | None) -> None:
        self.folders = None if folders is None else tuple(dict.fromkeys(map(os.path.realpath, folders)))

    def hold(self, path: str | Path) -> bool:
        """Whether a path, which may not exist, leads to a place inside one of the folders, all links followed."""
        return self.real(path) is not None

    def real(self, path: str | Path) -> Path | None:
        """Where a path really leads, all links followed; None where that is outside, or the path is relative."""
        if self.folders is None:
            return Path(path)
        try:
            found = os.path.realpath(path)
            return Path(found) if Path(path).is_absolute() and is_inside(found, self.folders) else None
        except (OSError, ValueError):  # a NUL, a loop of links, longer than the system takes
            return None

    def checker(self) -> Callable[[str | Path], bool]:
        """`hold` for many files of few folders: where a folder really lies is looked up once."""

        @functools.lru_cache(maxsize=1_024)
        def holds_folder(folder: str) -> bool:
            return self.hold(folder)

        def holds(path: str | Path) -> bool:
            folder, name = os.path.split(path)
            try:
                plain = name not in ("", os.curdir, os.pardir) and not os.path.islink(path)  # noqa: PTH114 (called a million times)
            except ValueError:  # a NUL
                return False
            return holds_folder(folder) if plain else self.hold(path)

        return self.hold if self.folders is None else holds

    def __or__(self, other: Roots) -> Roots:
        if self.folders is None or other.folders is None:
            return ANYWHERE
        return Roots((*self.folders, *other.folders))


def is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether a path lies in one of some folders by its name alone. The file system is not asked."""
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def expand_home(path: str | Path) -> str:
    """A path whose `~` is one's own home folder. Those of other users are not looked up: `~user` stays as it is."""
    text = os.fspath(path)
    own = text.startswith("~") and text[1:2] in ("", "/", os.sep)
    return os.path.expanduser(text) if own else text  # noqa: PTH111 (it would raise on what is no user)


ANYWHERE = Roots(None)
OUTSIDE = "outside"  # the reason by which a file that is not read is counted
