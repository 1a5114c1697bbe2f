"""The lock of an index's one writer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from diptych.errors import Busy
from diptych.runtime.locks import held

LOCK, HOLDER = "write.lock", "writer.json"


class IndexBusy(Busy):
    """Another process writes to the index."""


def writing(
    folder: Path, wait: float | None = None, on_wait: Callable[[str], None] = lambda message: None
) -> AbstractContextManager[None]:
    """Be the one writer of the index in `folder`: two at once would lose or double rows without an error.

    Raises:
        IndexBusy: another process still writes after `wait` seconds.
    """
    action = f"is writing to '{folder}'"
    return held(folder / LOCK, folder / HOLDER, action, wait=wait, on_wait=on_wait, error=IndexBusy)
