"""A memory budget that all image decodes of a process share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 1024 * 2**20
"""Bytes that all images being decoded may take together, in all threads of the process."""


class DecodeMemory:
    """A budget of bytes, granted first come, first served.

    Images that need at most a sixteenth of it share a quarter of it, so that they never wait for large ones; the
    others share the rest. An image that needs more than the rest runs alone among the large ones. A thread that holds
    a share is granted further ones at once, so that it cannot wait for itself.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.small_size = limit // 16
        self._small, self._large = _Queue(limit // 4), _Queue(limit - limit // 4)
        self._thread = threading.local()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them while the context lasts."""
        if getattr(self._thread, "holds", False):
            yield
            return
        queue = self._small if size <= self.small_size else self._large
        size = queue.take(size)
        self._thread.holds = True
        try:
            yield
        finally:
            self._thread.holds = False
            queue.give(size)


class _Queue:
    """A number of bytes that threads take in the order of their arrival."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int) -> int:
        """Wait for `size` bytes, or all of them if there are fewer, and return how many were taken."""
        size, ticket = min(size, self.size), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and size <= self.free)
                self.free -= size
            finally:  # an interrupted thread leaves the queue
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return size

    def give(self, size: int) -> None:
        """Return bytes that were taken."""
        with self._changed:
            self.free += size
            self._changed.notify_all()
