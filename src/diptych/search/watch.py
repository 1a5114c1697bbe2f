"""Watching a folder: when pictures come, change, move and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

from diptych.errors import require
from diptych.images.walk import is_excluded, is_image_file

_LONGEST = 30_000  # milliseconds after which changes that never pause are told


def changes(root: Path, exclude: Sequence[str] = (), stop: Event | None = None, quiet: float = 1.0) -> Iterator[int]:
    """Yields 0 once it watches `root`, then how many paths changed, each time that changes pause for `quiet` seconds.

    What changes while the consumer works is told next. Hidden and excluded paths do not count, the index's own folder
    among them; of the others, pictures and folders. Ends when `stop` is set or the process is interrupted.
    """
    watchfiles = require("watchfiles", extra="search")
    pause = int(quiet * 1_000)
    watching = False
    for found in watchfiles.watch(
        root,
        watch_filter=_filter(str(root), exclude),
        debounce=_LONGEST,
        step=pause,
        rust_timeout=pause,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=False,
    ):
        if found or not watching:
            watching = True
            yield len(found)


def _filter(root: str, exclude: Sequence[str]) -> Callable[[object, str], bool]:
    def counts(_change: object, path: str) -> bool:
        below = path
        while len(below) > len(root):
            if is_excluded(below, root, exclude):
                return False
            below = os.path.dirname(below)  # noqa: PTH120 (called for every change of every file)
        return is_image_file(path) or not os.path.isfile(path)  # noqa: PTH113

    return counts
