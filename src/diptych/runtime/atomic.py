"""Atomic writes: a file or folder has either its old or its new content, even after a full disk or `kill -9`.

Data are written beside the target under a hidden name that ends in `.diptych`; only such names are ever removed. A
folder that is replaced is first renamed to such a name, so that one of the two can always be loaded.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from diptych.errors import ConfigError, StorageError

_ABANDONED_SECONDS = 24 * 3600
_NAME_BYTES = 100  # of the target's name in the names of temporary files, since file systems allow 255 bytes
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# The messages of libraries that write files themselves: safetensors and LanceDB (Rust), torch, numpy.
_REFUSED_TEXT = re.compile(
    r"os error (27|28|122)\b|No space left on device|File too large|file write failed|unexpected pos \d+ vs \d+"
    r"|\d+ requested and \d+ written"
)
_WRITE_ERRORS = (OSError, RuntimeError, ValueError, SafetensorError)


def is_storage_failure(error: BaseException | None) -> bool:
    """Whether an error or one of its causes means that the disk is full, over its quota, or read-only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return True
        if isinstance(error, _WRITE_ERRORS) and _REFUSED_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return str(error.strerror)
        error = error.__cause__ or error.__context__
    return os.strerror(errno.ENOSPC)


@contextmanager
def storing(path: str | Path, kept: str = "what was there is unchanged") -> Iterator[None]:
    """Turn disk failures, from whichever library, into a `StorageError` that names `path` and says what is `kept`.

    Raises:
        StorageError: the disk is full, over its quota, or read-only.
    """
    try:
        yield
    except _WRITE_ERRORS as error:
        if not is_storage_failure(error):
            raise
        reason = _reason(error)
        read_only = reason == os.strerror(errno.EROFS)
        advice = "Make it writable, or write elsewhere" if read_only else "Free some space on that disk, and try again"
        raise StorageError(f"cannot write '{path}': {reason}; {kept}. {advice}") from error


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Write a text file atomically, in UTF-8 and with line ends unchanged; `errors` as in `str.encode`.

    Raises:
        StorageError: the disk is full; the old file is unchanged.
    """
    write_bytes(path, text.encode("utf-8", errors))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        StorageError: the disk is full; the old file is unchanged.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def new_text(path: str | Path, errors: str = "strict") -> Iterator[TextIO]:
    """A text file opened for writing, in UTF-8 and with line ends unchanged; see `new_file`."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="", errors=errors) as file:
        yield file


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """The path of a temporary file with the same suffix, which replaces `path` when the block ends without an error.

    It gets the permissions of the file that it replaces, or those of a new file. If `path` is a link, the file that it
    leads to is replaced. If it is not a regular file (`/dev/stdout`, a pipe), it is written directly.

    Raises:
        StorageError: the disk is full; the old file is unchanged.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    if mode is not None and not stat.S_ISREG(mode):
        yield target
        return
    temporary = _temporary(target, target.suffix)
    with storing(path):
        try:
            yield temporary
            if mode is not None:
                with suppress(PermissionError):  # on a file system without permissions
                    temporary.chmod(stat.S_IMODE(mode))
            _sync(temporary)
            temporary.replace(target)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)
            raise
    _sync(target.parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `target` when the block ends without an error and removed otherwise.

    So `target` is complete whenever it exists, even after `kill -9`. If another process was faster, its folder stays
    and this one is removed. A block that writes nothing makes no `target`.

    Raises:
        StorageError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in leftovers(target):  # left by a killed process, or being written by another one
        if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    folder = _temporary(target)
    folder.mkdir()
    try:
        with storing(target):
            yield folder
            if any(folder.iterdir()) and not target.exists():
                _sync_tree(folder)
                try:
                    folder.rename(target)
                except OSError:
                    if not target.exists():  # no other process made it: the disk failed
                        raise
                _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replaced_folder(target: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder that replaces `target` when the block ends without an error.

    1. The new folder is written and flushed to the disk. 2. The old one is set aside. 3. The new one is renamed to
    `target`. 4. The old one is removed. A process that is killed at any step leaves one of the two: between 2 and 3
    `in_place` finds the old one, and `restore` puts it back. Only one process at a time may do this for a target: hold
    a lock.

    Raises:
        ConfigError: `is_ours` returns False for the existing folder, which is left alone.
        StorageError: the disk is full; the old folder is unchanged.
    """
    restore(target, is_ours)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary(target)
    try:
        with storing(target):
            folder.mkdir()
            yield folder
            _sync_tree(folder)
            refuse_foreign(target, is_ours)
            if os.path.lexists(target):
                target.rename(_aside(target))
            folder.rename(target)
            _sync(target.parent)
    except BaseException:
        _recover(target)
        raise
    _discard(_aside(target))


def restore(target: Path, is_ours: Callable[[Path], bool]) -> None:
    """Put back the folder that an interrupted `replaced_folder` set aside, and remove its temporary files.

    Raises:
        ConfigError: `is_ours` returns False for the existing folder.
    """
    refuse_foreign(target, is_ours)
    _recover(target)


def _recover(target: Path) -> None:
    aside = _aside(target)
    if os.path.lexists(aside):
        if os.path.lexists(target):
            _discard(aside)
        else:
            aside.rename(target)
            _sync(target.parent)
    for left in leftovers(target):
        shutil.rmtree(left, ignore_errors=True)


def in_place(target: Path) -> Path:
    """`target`, or the folder to which an interrupted `replaced_folder` set the old one aside."""
    if not target.name:  # the current folder, or the root
        return target
    aside = _aside(target)
    return aside if aside.is_dir() and not os.path.lexists(target) else target


def refuse_foreign(target: Path, is_ours: Callable[[Path], bool]) -> None:
    """Check that an existing `target` was made by diptych.

    Raises:
        ConfigError: `is_ours` returns False for it.
    """
    if os.path.lexists(target) and not is_ours(target):
        raise ConfigError(f"'{target}' was not made by diptych, which does not replace it; move it away, and try again")


def leftovers(target: Path) -> list[Path]:
    """The temporary files and folders of `target` that other processes left behind or are writing."""
    if not target.parent.is_dir():
        return []
    pattern = re.compile(rf"\.{re.escape(_short(target))}-[0-9a-f]{{8}}\.diptych({re.escape(target.suffix)})?")
    return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has the name of one of this module's temporary files."""
    return re.fullmatch(r"\..+-[0-9a-f]{8}\.diptych(\.\w+)?", path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of all targets in a folder to which only the caller writes."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(path) and path.is_file():
            path.unlink(missing_ok=True)


def _temporary(target: Path, suffix: str = "") -> Path:
    return target.with_name(f".{_short(target)}-{secrets.token_hex(4)}.diptych{suffix}")


def _aside(target: Path) -> Path:
    return target.with_name(f".{_short(target)}-old.diptych")


def _short(target: Path) -> str:
    """The target's name, shortened to fit into the name of a temporary file."""
    return os.fsdecode(os.fsencode(target.name)[:_NAME_BYTES]).rstrip(".") if target.name else "folder"


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _discard(path: Path) -> None:
    """Remove a folder that was set aside: it is renamed first, so that a folder with that name is always complete."""
    if not os.path.lexists(path):
        return
    name = path.name.removesuffix("-old.diptych")
    gone = path.with_name(f"{name}-{secrets.token_hex(4)}.diptych")
    path.rename(gone)
    if gone.is_symlink():  # the user keeps the model elsewhere: the link was replaced, its target stays
        gone.unlink()
    else:
        shutil.rmtree(gone, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk; Windows and some network disks cannot flush folders."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not is_folder or error.errno in _REFUSED:
            raise
