"""The write lock of an index, which one process holds at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from diptych.errors import Busy
from diptych.runtime.locks import held
from diptych.search.layout import HOLDER, LOCK


class IndexBusy(Busy):
    """Another process is writing to the index."""


def writing(
    folder: Path, wait: float | None = None, on_wait: Callable[[str], None] | None = None
) -> AbstractContextManager[None]:
    """Hold the write lock of the index in `folder`: two writers at once would lose or duplicate rows silently.

    Raises:
        IndexBusy: another process still writes after `wait` seconds (None: wait as long as it takes).
    """
    action = f"is writing to '{folder}'"
    return held(folder / LOCK, folder / HOLDER, action, wait=wait, on_wait=on_wait or _silent, error=IndexBusy)


def _silent(message: str) -> None:
    """Does nothing with a message."""
    del message
