"""Watching a folder for images that are added, changed, moved or deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

from diptych.errors import require
from diptych.images.suffixes import is_image_file
from diptych.images.walk import is_excluded

_MAX_WAIT = 30_000  # milliseconds after which changes that never pause are reported


def changes(
    root: Path,
    exclude: Sequence[str] = (),
    stop: Event | None = None,
    quiet: float = 1.0,
    *,
    skip_system_folders: bool = True,
) -> Iterator[int]:
    """Yields 0 once `root` is watched, then the number of changed paths after each pause of `quiet` seconds.

    Changes made while the consumer works are reported next. Only images and folders count; hidden and excluded paths
    do not, among them the index's own folder, nor do system folders unless `skip_system_folders` is False. Ends when
    `stop` is set or the process is interrupted.

    Raises:
        MissingExtra: watchfiles is not installed.
    """
    watchfiles = require("watchfiles", extra="search")
    pause = int(quiet * 1_000)
    watching = False
    for batch in watchfiles.watch(
        root,
        watch_filter=_filter(str(root), exclude, skip_system_folders),
        debounce=_MAX_WAIT,
        step=pause,
        rust_timeout=pause,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=False,
    ):
        if batch or not watching:
            watching = True
            yield len(batch)


def _filter(root: str, exclude: Sequence[str], skip_system_folders: bool) -> Callable[[object, str], bool]:
    def counts(_change: object, path: str) -> bool:
        below = path
        while len(below) > len(root):
            if is_excluded(below, root, exclude, skip_system_folders=skip_system_folders):
                return False
            below = os.path.dirname(below)  # noqa: PTH120 (called for every change of every file)
        return is_image_file(path) or not os.path.isfile(path)  # noqa: PTH113

    return counts
