"""The lock of an index's one writer."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.errors import DiptychError

LOCK, HOLDER = "write.lock", "writer.json"


class IndexBusy(DiptychError):  # noqa: N818 - it names what is the matter
    """Another process writes to the index."""

    status = 423


@contextmanager
def writing(
    folder: Path, wait: float | None = None, on_wait: Callable[[str], None] = lambda message: None
) -> Iterator[None]:
    """Be the one writer of the index in `folder`: two at once would lose or double rows without an error.

    The system releases the lock when its process ends, however it ends. If another holds it, `on_wait` is told who,
    and this waits for `wait` seconds, or as long as it takes.

    Raises:
        IndexBusy: another process still writes after that time.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait(f"{_holder(folder)} is writing to '{folder}'; waiting")
        try:
            lock.acquire(timeout=-1 if wait is None else wait)
        except filelock.Timeout:
            raise IndexBusy(f"{_holder(folder)} is writing to '{folder}'; try again when it is done") from None
    try:
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (folder / HOLDER).write_text(json.dumps(holder) + "\n", "utf-8")
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        holder = json.loads((folder / HOLDER).read_text("utf-8"))
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    return "another process"
