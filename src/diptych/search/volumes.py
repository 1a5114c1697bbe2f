"""Volumes: which file systems the images of an index lie on, and which missing files are known to be gone.

A file that is not there may have been deleted, or its drive may be off. It is known to be gone only if the folder that
held it, or the nearest one above that still exists, can be listed and lies on the volume on which the file was seen.
Whether a file system is the one that was mounted at a folder before is told by its UUID. Many have none: network
shares, most that a container sees, and removable ones on macOS. There a witness must speak for it: another file of
the index on that volume, with the size and time that it had.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from diptych.images.paths import from_text, to_text
from diptych.images.roots import is_inside

State = Literal["there", "gone", "unreachable"]

Recorded = Mapping[str, Collection[str]]
"""Volumes by their folder as text, each with the identities that file systems mounted there had."""

OTHER = "?"
"""Recorded as an identity: another file system, which had none, was mounted at the folder, or files lay below it."""


class Witness(NamedTuple):
    """A file of an index as it was when it was added: while it is like that, its volume is the one it was seen on."""

    path: str
    size: int
    mtime: int


Witnesses = Mapping[str, Witness]
"""A witness for each volume, by its folder, that has no identity and where one was found."""

_ROOT = str(Path(os.sep).absolute())

_UUIDS = Path("/dev/disk/by-uuid")  # Linux
_MOUNTS = Path("/proc/self/mountinfo")  # Linux; mounts of the same device elsewhere are not seen
_OCTAL = re.compile(rb"\\([0-7]{3})")


def device_of(path: str) -> int:
    """The number of the device that holds an existing file or folder."""
    return os.stat(path).st_dev  # noqa: PTH116 (called for every folder of an index)


def mount_points() -> frozenset[str]:
    """The folders at which file systems are mounted, as far as the system lists them."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ") for line in lines)
    return frozenset(
        os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field[4])) for field in fields if len(field) > 4
    )


class MountEvents:
    """Tells whether file systems were mounted or unmounted, also if what is mounted now looks as it did before.

    Device numbers and mount ids are given again at once, so that a comparison misses a drive that is exchanged
    quickly. On other systems than Linux nothing is told.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        with suppress(OSError):
            self._file = _MOUNTS.open("rb")

    def happened(self) -> bool:
        """Whether there was one since the last call, or since this was made."""
        if self._file is None or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._file, select.POLLPRI)
        return any(event & select.POLLPRI for _, event in poll.poll(0))

    def close(self) -> None:
        """Release the list of mounts."""
        if self._file is not None:
            self._file.close()


def identity_of(folder: str) -> str | None:
    """The UUID of the file system that is mounted at a folder; None where the system does not tell it."""
    try:
        device = device_of(folder)
        if os.name == "nt":  # it is the serial number of the volume
            return f"{device:x}"
        return next((link.name for link in _UUIDS.iterdir() if link.stat().st_rdev == device), None)
    except OSError:
        return None


class Volumes:
    """A view of the mounted volumes at one moment: make another one when time has passed.

    `recorded` are the volumes on which the images of an index were seen; None in an index of an older version, which
    did not record them. There a missing file counts as gone only if its own folder still holds something, since an
    empty one may be where a drive is mounted. Where several file systems were mounted in turn, such as cards of a
    camera, nobody knows on which of them a file was: none counts as gone. Nor does one on a volume without identity
    that has none of the `witnesses`; only that of `/` is always the same.
    """

    def __init__(self, recorded: Recorded | None, witnesses: Witnesses | None = None) -> None:
        self._witnesses = witnesses or {}
        named = {str(from_text(text)): set(identities) for text, identities in (recorded or {}).items()}
        self._recorded = None if recorded is None else dict(sorted(named.items(), key=lambda item: -len(item[0])))
        self._mounts = mount_points()
        self._volume_of = lru_cache(maxsize=65_536)(self._find_volume)
        self._is_listed = lru_cache(maxsize=65_536)(_is_listed)
        self._identity_of = lru_cache(maxsize=1_024)(identity_of)

    def volume_of(self, folder: str) -> str:
        """The top folder of the volume that holds an existing file or folder, with all links followed.

        Raises:
            OSError: it does not exist, or cannot be looked at.
        """
        return self._volume_of(os.path.realpath(folder))

    def _find_volume(self, real: str) -> str:
        parent = os.path.dirname(real)  # noqa: PTH120
        if parent == real or real in self._mounts or device_of(parent) != device_of(real):
            return real
        return self._volume_of(parent)

    def state(self, text: str) -> State:
        """Whether the file of a row's path (from `to_text`) is there, known to be gone, or cannot be reached.

        A path inside a file, such as a member of a tar shard, is there if the file is.
        """
        path = str(from_text(text))
        try:
            if _exists(path):
                return "there"
            folder = os.path.realpath(path)
            while not _exists(folder):
                folder = os.path.dirname(folder)  # noqa: PTH120
            if not os.path.isdir(folder):  # noqa: PTH112
                return "there"
            return "gone" if self._held(os.path.realpath(path), folder) else "unreachable"
        except (OSError, ValueError):  # no permission, an error of the device, a loop of links, a NUL
            return "unreachable"

    def _held(self, path: str, folder: str) -> bool:
        """Whether the nearest existing folder is still what it was when the file was seen below it."""
        if not self._is_listed(folder):
            return False
        if self._recorded is None:
            return folder == os.path.dirname(path) and _holds_something(folder)  # noqa: PTH120
        volume = self._recorded_volume(path)
        return volume is not None and self._is_mounted(volume, folder)

    def _is_mounted(self, volume: str, folder: str) -> bool:
        """Whether an existing folder lies on a recorded volume, and the same file system as ever is mounted there."""
        return self.volume_of(folder) == volume and self._is_same(volume)

    def _is_same(self, volume: str) -> bool:
        """Whether the file system mounted at the folder of a recorded volume is the one on which images were seen."""
        identities = (self._recorded or {})[volume]
        if identities:
            return identities == {self._identity_of(volume)}
        return volume == _ROOT or (volume in self._witnesses and self._testifies(volume, self._witnesses[volume]))

    def _testifies(self, volume: str, witness: Witness) -> bool:
        """Whether a file is as it was, and on a volume."""
        try:
            status = os.stat(witness.path)  # noqa: PTH116 (called for many rows)
            same = status.st_size == witness.size and status.st_mtime_ns == witness.mtime
            return same and self.volume_of(witness.path) == volume
        except (OSError, ValueError):
            return False

    def find_witnesses(self, rows: Iterable[Witness]) -> Witnesses:
        """The first row that speaks for each recorded volume without identity; rows are read until all have one.

        To be called before a run writes rows: those that it adds say nothing about the time before.
        """
        wanted = {volume for volume, ids in (self._recorded or {}).items() if not ids and volume != _ROOT}
        wanted = {volume for volume in wanted if self._is_mount_point(volume)}
        devices = {device_of(volume) for volume in wanted}
        found: dict[str, Witness] = {}
        for row in rows if wanted else ():
            with suppress(OSError, ValueError):
                if device_of(row.path) not in devices:
                    continue
                volume = self.volume_of(os.path.dirname(os.path.realpath(row.path)))  # noqa: PTH120
                if volume in wanted and self._testifies(volume, row):
                    found[volume] = row
                    wanted.remove(volume)
            if not wanted:
                break
        return found

    def _is_mount_point(self, volume: str) -> bool:
        try:
            return self.volume_of(volume) == volume
        except OSError:
            return False

    def is_other(self, volume: str) -> bool:
        """Whether a volume was recorded without an identity, and no witness says that it is the same now."""
        return volume in (self._recorded or {}) and not (self._recorded or {})[volume] and not self._is_same(volume)

    def is_recorded(self, volume: str) -> bool:
        """Whether images were seen on a volume, by its folder."""
        return volume in (self._recorded or {})

    def hides(self, volume: str, text: str) -> bool:
        """Whether the file of a row's path was seen on a volume above one that is now mounted over its folder."""
        path = os.path.realpath(from_text(text))
        seen_on = self._recorded_volume(path)
        return seen_on not in (None, volume) and is_inside(path, [volume]) and is_inside(volume, [str(seen_on)])

    def _recorded_volume(self, path: str) -> str | None:
        return next((volume for volume in self._recorded or () if is_inside(path, [volume])), None)

    def unreachable_folder(self, text: str) -> str:
        """What has to come back for the file of a row to be reached: a volume, or the topmost missing folder."""
        path = os.path.realpath(from_text(text))
        missing, folder = path, os.path.dirname(path)  # noqa: PTH120
        while not os.path.lexists(folder):
            missing, folder = folder, os.path.dirname(folder)  # noqa: PTH120
        volume = self._recorded_volume(path)
        if volume is not None and not self._is_mounted(volume, folder):
            return to_text(volume)
        return to_text(missing if missing != path else folder)


def known_gone(paths: Iterable[str], recorded: Recorded | None, witnesses: Witnesses | None = None) -> set[str]:
    """The paths of rows whose files are known to be gone; each is looked at twice, in case a drive is just leaving."""
    first = Volumes(recorded, witnesses)
    candidates = [path for path in paths if first.state(path) == "gone"]
    second = Volumes(recorded, witnesses)
    return {path for path in candidates if second.state(path) == "gone"}


def _exists(path: str) -> bool:
    """Whether a file or folder exists, with links followed.

    Raises:
        OSError: that cannot be told: no permission, or an error of the device.
    """
    try:
        os.stat(path)  # noqa: PTH116 (called for every row that a source does not name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_listed(folder: str) -> bool:
    """Whether a folder can be listed."""
    try:
        with os.scandir(folder):
            return True
    except OSError:
        return False


def _holds_something(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(iter(entries), None) is not None
