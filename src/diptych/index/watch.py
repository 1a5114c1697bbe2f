"""Watching a folder: the index follows as pictures come, change, move and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

from diptych.errors import require
from diptych.formats.pictures import is_picture
from diptych.index.files import is_excluded


def changes(root: Path, exclude: Sequence[str] = (), stop: Event | None = None, quiet: float = 1.0) -> Iterator[int]:
    """Yields how many paths that matter changed below `root`, each time that changes pause for `quiet` seconds.

    Hidden and excluded paths do not matter, the index's own folder among them; of the others, pictures and folders.
    Ends when `stop` is set.
    """
    watchfiles = require("watchfiles", extra="search")
    matters = _filter(str(root), exclude)
    pause = int(quiet * 1_000)
    for found in watchfiles.watch(
        root, watch_filter=matters, debounce=30_000, step=pause, stop_event=stop, raise_interrupt=False
    ):
        yield len(found)


def _filter(root: str, exclude: Sequence[str]) -> Callable[[object, str], bool]:
    def matters(_change: object, path: str) -> bool:
        below = path
        while len(below) > len(root):
            if is_excluded(below, root, exclude):
                return False
            below = os.path.dirname(below)  # noqa: PTH120 (called for every change of every file)
        return is_picture(path) or not os.path.isfile(path)  # noqa: PTH113

    return matters
