"""Room for so much at once, and no more: what does not fit is refused instead of waiting without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diptych.api.refusals import busy


class Room:
    """Holds `limit` of something (`what`, in words); used from one event loop."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self.what, self.held = limit, what, 0

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Hold `count` while the context lasts. Something larger than the room has it when it is alone.

        Raises:
            Refused: 429, it does not fit.
        """
        if self.held and self.held + count > self.limit:
            raise busy(f"the server has {self.held:,} {self.what} in hand, and room for {self.limit:,}; try again soon")
        self.held += count
        try:
            yield
        finally:
            self.held -= count
