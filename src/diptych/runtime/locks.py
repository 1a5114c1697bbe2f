"""Lock files between processes, released by the system when their holder ends, with a note of who holds them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.errors import Busy
from diptych.runtime.atomic import write_text


@contextmanager
def held(
    lock: Path,
    note: Path,
    action: str,
    *,
    wait: float | None = 0,
    on_wait: Callable[[str], None] = lambda _message: None,
    error: type[Busy] = Busy,
) -> Iterator[None]:
    """Hold the lock file `lock`; the file `note` records which process holds it, and since when.

    The system releases the lock when its process ends, however it ends. If another process holds it, `on_wait` is
    called with a message, and this waits for `wait` seconds (None: as long as it takes). `action` completes the
    sentence "process 12 on HOST ...".

    NFS passes locks on to its server (NFSv4, or v3 with lockd), so they hold between machines. On a file system without
    locks the existence of the file is the lock (`filelock.SoftFileLock`), which a process that is killed on another
    machine leaves behind.

    Raises:
        Busy: another process still holds the lock after that time; `error` is its class.
    """
    import filelock

    file = filelock.FileLock(lock, thread_local=False)
    try:
        file.acquire(timeout=0)
    except filelock.Timeout:
        on_wait(f"{_holder(note)} {action}; waiting")
        try:
            file.acquire(timeout=-1 if wait is None else wait)
        except filelock.Timeout:
            raise error(f"{_holder(note)} {action}; try again when it is done") from None
    try:
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_text(note, json.dumps(holder) + "\n")
        yield
    finally:
        file.release()


def _holder(note: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        holder = json.loads(note.read_text("utf-8"))
        return f"process {int(holder['pid'])} on {_short(holder['host'])} (since {_short(holder['since'])})"
    return "another process"


def _short(value: object) -> str:
    """Printable characters of a note's value, at most 80, since anybody may have written it."""
    return "".join(filter(str.isprintable, str(value)[:80]))
