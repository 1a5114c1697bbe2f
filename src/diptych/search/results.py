"""What a search found: typed hits, how many there are, and in words why there are no more."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found.

    `score` is the cosine of query and picture, in [-1, 1]; it orders the hits of one query and means nothing across
    queries. `evidence` is what the cutoff decided by, as log-odds; None where no cutoff was applied. `copies` are the
    paths of pictures that are the same as this one and were folded into it. `match` is the probability that a matcher
    gave it; None where none looked.
    """

    id: str
    path: str
    score: float
    evidence: float | None = None
    width: int | None = None
    height: int | None = None
    size: int | None = None
    taken: datetime.datetime | None = None
    changed: datetime.datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    caption: str | None = None
    copies: tuple[str, ...] = ()
    match: float | None = None

    @property
    def date(self) -> datetime.datetime:
        """When it was taken, else when its file was last changed: local time; the year 1 where neither is known."""
        return self.taken or self.changed or datetime.datetime.min

    def as_dict(self) -> dict[str, Any]:
        days = {name: when.isoformat() for name in ("taken", "changed") if (when := getattr(self, name))}
        return {**asdict(self), "copies": list(self.copies), "taken": None, "changed": None, **days}


@dataclass(frozen=True, slots=True)
class Results:
    """One page of what a query found, best first or by date.

    `total` counts the hits of all pages; with `more` there are at least so many. `searched` is how many pictures met
    the filters, `before` how many hits stand on the pages before this one. `cutoff` says in words how hits were told
    from the rest. `nearest` is the best picture, hit or not.
    """

    query: str
    hits: tuple[Hit, ...]
    total: int
    more: bool
    searched: int
    cutoff: str
    page: int = 1
    before: int = 0
    nearest: Hit | None = None

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @property
    def first_rank(self) -> int:
        """The place of the first hit of this page among all, from 1."""
        return self.before + 1

    @property
    def nothing_found(self) -> bool:
        return self.total == 0

    @property
    def message(self) -> str:
        """What was found, in a sentence."""
        if not self.searched:
            return "nothing found: no picture of the index meets the filters"
        if self.nothing_found and self.nearest is not None:
            return (
                f"nothing found: none of {_pictures(self.searched)} shows {self.query} "
                f"(the nearest, not near enough: {self.nearest.path})"
            )
        if not self.hits:
            return f"page {self.page} is empty: {self.query} has {self.counted}"
        return f"{self.query}: {self.counted}"

    @property
    def counted(self) -> str:
        """How many hits of how many pictures."""
        return f"{'at least ' if self.more else ''}{self.total:,} of {_pictures(self.searched)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "query": self.query,
            "message": self.message,
            "total": self.total,
            "more": self.more,
            "searched": self.searched,
            "page": self.page,
            "cutoff": self.cutoff,
            "hits": [hit.as_dict() for hit in self.hits],
            "nearest": self.nearest.as_dict() if self.nearest else None,
        }


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
