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
    def take(self, count: int = 1) -> Iterator[Share]:
        """Hold `count` while the context lasts, and what its share takes besides.

        Raises:
            Refused: 429, it does not fit.
        """
        share = Share(self)
        share.more(count)
        try:
            yield share
        finally:
            self.held -= share.held


class Share:
    """What one request holds of a room. One that is larger than the room has it when it is alone."""

    def __init__(self, room: Room) -> None:
        self.room, self.held = room, 0

    def more(self, count: int) -> None:
        """Hold `count` more.

        Raises:
            Refused: 429, it does not fit.
        """
        room = self.room
        if room.held > self.held and room.held + count > room.limit:
            raise busy(f"the server has {room.held:,} {room.what} in hand, and room for {room.limit:,}; try again soon")
        room.held += count
        self.held += count
