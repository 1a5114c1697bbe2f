"""Watching a folder for images that are added, changed, moved or deleted, also while its drive comes and goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import ModuleType

from diptych.errors import DataError, require
from diptych.images.exclusions import NOTHING, Exclusions
from diptych.images.paths import from_text
from diptych.images.roots import is_inside
from diptych.images.suffixes import is_image_file
from diptych.images.walk import is_left_out
from diptych.search.volumes import MountEvents, Volumes, mount_points

_MAX_WAIT = 30_000  # milliseconds after which changes that never pause are reported
_LOST = -1

Place = tuple[int, int] | None  # device and number of a folder; None while it is not there


@dataclass(frozen=True, slots=True)
class _Mounted:
    """What a watch depends on: the folder itself, what is mounted in it, and the volumes of its images."""

    root: Place
    mounts: frozenset[str]
    is_removable: bool
    volumes: dict[str, Place]

    @classmethod
    def now(cls, root: Path, volumes: Sequence[str]) -> _Mounted:
        mounts = frozenset(mount for mount in mount_points() if is_inside(mount, [str(root)]))
        is_removable = bool(mounts) or any(volume != "/" for volume in volumes) or _is_mounted(root)
        return cls(_place(root), mounts, is_removable, {volume: _place(from_text(volume)) for volume in volumes})

    def differs(self, later: _Mounted) -> bool:
        """Whether something came or went; volumes that were recorded in the meantime do not count."""
        same_volumes = all(later.volumes.get(volume) == place for volume, place in self.volumes.items())
        return (self.root, self.mounts) != (later.root, later.mounts) or not same_volumes


def changes(
    root: Path,
    exclude: Exclusions = NOTHING,
    stop: Event | None = None,
    quiet: float = 1.0,
    *,
    skip_system_folders: bool = True,
    volumes: Callable[[], Sequence[str]] = tuple,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[int]:
    """Yields 0 once `root` is watched, then the number of changed paths after each pause of `quiet` seconds.

    Changes made while the consumer works are reported next. Only images and folders count; hidden and excluded paths
    do not, among them the index's own folder, nor do system folders unless `skip_system_folders` is False. When the
    folder or a volume of its images (`volumes`, as text) comes or goes, the watch starts again, and a change is
    reported; while the folder is away, this waits and tells `on_wait`. Ends when `stop` is set or the process is
    interrupted.

    Raises:
        DataError: `root` is not a folder.
        MissingExtra: watchfiles is not installed.
    """
    watchfiles = require("watchfiles", extra="search")
    stop, counts = stop or Event(), _filter(str(root), exclude, skip_system_folders)
    if not root.is_dir():
        raise DataError(f"'{root}' is not a folder; check the path, or whether its drive is mounted")
    restarted, told = False, False
    events = MountEvents()
    try:
        while not stop.is_set():
            events.happened()
            mounted = _Mounted.now(root, volumes())
            if mounted.root is None:
                if on_wait is not None and not told:
                    on_wait(f"'{root}' no longer exists; waiting for it to come back")
                told = True
                stop.wait(quiet)
                continue
            told = False
            watched = _watched(watchfiles, root, counts, stop, quiet)
            began = False
            for batch in watched:
                later = _Mounted.now(root, volumes())
                exchanged = events.happened() and later.is_removable
                if batch == _LOST or exchanged or mounted.differs(later):
                    stop.wait(quiet)
                    break
                mounted = later
                if batch or not began:
                    yield max(batch, int(restarted and not began))
                    began = True
            else:
                return  # stopped or interrupted
            restarted = True
    except KeyboardInterrupt:
        return
    finally:
        events.close()


def _watched(
    watchfiles: ModuleType, root: Path, counts: Callable[[object, str], bool], stop: Event, quiet: float
) -> Iterator[int]:
    """The number of changes after each pause, even if 0; `_LOST` if a folder went away before it was watched."""
    pause = int(quiet * 1_000)
    try:
        for batch in watchfiles.watch(
            root,
            watch_filter=counts,
            debounce=_MAX_WAIT,
            step=pause,
            rust_timeout=pause,
            yield_on_timeout=True,
            stop_event=stop,
            raise_interrupt=False,
        ):
            yield len(batch)
    except FileNotFoundError:
        yield _LOST


def _filter(root: str, exclude: Exclusions, skip_system_folders: bool) -> Callable[[object, str], bool]:
    def counts(_change: object, path: str) -> bool:
        if is_left_out(path, root, exclude, skip_system_folders=skip_system_folders):
            return False
        return is_image_file(path) or not os.path.isfile(path)  # noqa: PTH113 (called for every change of every file)

    return counts


def _is_mounted(root: Path) -> bool:
    """Whether a folder lies on another volume than that of `/`, so that it can be exchanged."""
    try:
        return Volumes(None).volume_of(str(root)) != "/"
    except OSError:
        return True


def _place(path: Path) -> Place:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
