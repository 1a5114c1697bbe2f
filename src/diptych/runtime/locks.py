"""One process at a time: a lock file that the system frees when its holder ends, and a note of who holds it."""

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
    on_wait: Callable[[str], None] = lambda message: None,
    error: type[Busy] = Busy,
) -> Iterator[None]:
    """Hold the lock file `lock`; `note` beside it says which process does, and since when.

    The system releases the lock when its process ends, however it ends. If another holds it, `on_wait` is told who, and
    this waits for `wait` seconds, or with None as long as it takes. `action` completes "process 12 on HOST ...".

    Network file systems: NFS passes the lock on to its server (NFSv4, or v3 with lockd), so it holds between machines.
    A file system without locks gets a lock by the existence of the file (`filelock.SoftFileLock`), which a killed
    process leaves behind where its machine is another one.

    Raises:
        Busy: another process still holds it after that time.
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
    """What a stranger's note may bring to a terminal."""
    return "".join(filter(str.isprintable, str(value)[:80]))
