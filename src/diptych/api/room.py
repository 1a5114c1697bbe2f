"""Room for so much at once, and no more: what does not fit is refused instead of waiting without end."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from diptych.api.refusals import busy

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client of the request in hand: the digest of its key, or its network. Empty outside of requests."""

_SHARE = 0.75  # of a limit that one client may hold, so that something is left for the others
_NETWORK = 64  # bits of an IPv6 address that name a client's network; it may choose the others as it likes


def network_of(address: str) -> str:
    """What names the client at an address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _NETWORK), strict=False))


def share_of(limit: int) -> int:
    """How much of a limit one client may hold: three quarters, rounded up."""
    return math.ceil(limit * _SHARE)


class Room:
    """Holds `limit` of something (`what`, in words), and `each` of it for one client; used from one event loop."""

    def __init__(self, limit: int, what: str, each: int | None = None) -> None:
        self.limit, self.what, self.held = limit, what, 0
        self.each = share_of(limit) if each is None else min(each, limit)
        self._clients: Counter[str] = Counter()

    @contextmanager
    def take(self, count: int = 1) -> Iterator[Share]:
        """Hold `count` for the current `CLIENT` while the context lasts, and what its share takes besides.

        Raises:
            Refused: 429, it does not fit.
        """
        share = Share(self, CLIENT.get())
        try:
            share.more(count)
            yield share
        finally:
            self._free(share)

    def held_by(self, client: str) -> int:
        """How much one client holds."""
        return self._clients[client]

    def _hold(self, share: Share, count: int) -> None:
        self.held += count
        share.held += count
        if share.client:
            self._clients[share.client] += count

    def _free(self, share: Share) -> None:
        self.held -= share.held
        if share.client:
            self._clients[share.client] -= share.held
            if not self._clients[share.client]:
                del self._clients[share.client]  # or strangers would fill the memory


class Share:
    """What one request holds of a room. One that is larger than the room has it when it is alone."""

    def __init__(self, room: Room, client: str = "") -> None:
        self.room, self.client, self.held = room, client, 0

    def more(self, count: int) -> None:
        """Hold `count` more.

        Raises:
            Refused: 429, it does not fit.
        """
        room = self.room
        own = room.held_by(self.client) if self.client else 0
        if own > self.held and own + count > room.each:
            raise busy(f"you have {own:,} {room.what} in hand, the limit is {room.each:,}; wait for their answers")
        if room.held > self.held and room.held + count > room.limit:
            raise busy(f"the server has {room.held:,} {room.what} in hand, and room for {room.limit:,}; try again soon")
        room._hold(self, count)
