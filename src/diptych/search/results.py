"""Search results: a page of hits with their scores and metadata, how many there are, and a message in words."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

from diptych.errors import MissingExtra, require
from diptych.images.roots import Roots
from diptych.models.unknown_words import unknown_words_message

if TYPE_CHECKING:
    import pandas as pd

_SHOWN_IN_REPR = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """An image that was found.

    `score` is the cosine of query and image, in [-1, 1]; it orders the hits of one query and is not comparable across
    queries. `evidence` is the log-odds that the relevance cutoff was applied to; None where there was no cutoff.
    `width` and `height` are pixels of the upright image, `size` is bytes. `taken` is EXIF's local time, `changed` the
    file's last change. `copies` are the paths of copies that were folded into this hit. `match` is the probability in
    [0, 1] by which a matcher re-ranked it, if one did.
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
        """When it was taken, else when its file was last changed, in local time; year 1 if neither is known."""
        return self.taken or self.changed or datetime.datetime.min

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON can hold it; times are ISO 8601."""
        times = {name: time.isoformat() for name in ("taken", "changed") if (time := getattr(self, name))}
        return {**asdict(self), "copies": list(self.copies), "taken": None, "changed": None, **times}


@dataclass(frozen=True, slots=True, repr=False)
class Results(Sequence[Hit]):
    """One page of the hits of a query, best first or by date: a sequence of `Hit`.

    `total` counts the hits of all pages; if `more`, it is a lower bound. `searched` is how many images met the filters,
    `before` how many hits precede this page. `cutoff` describes the relevance cutoff. `nearest` is the image nearest
    to the query, hit or not. `unknown` are the texts of the query of which the model knows no word. `readable` are the
    folders from which a notebook may show thumbnails; None: nowhere.
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
    unknown: tuple[str, ...] = ()
    readable: Roots | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    @property
    def first_rank(self) -> int:
        """The rank of this page's first hit among all hits, from 1."""
        return self.before + 1

    @property
    def nothing_found(self) -> bool:
        """Whether the query has no hits on any page."""
        return self.total == 0

    @property
    def message(self) -> str:
        """What was found, in a sentence."""
        if not self.searched:
            return "nothing found: the index is empty, or no image in it passes the filters"
        if self.unknown:
            unknown = unknown_words_message(self.unknown)
            return f"{unknown} ({self.query}: {self.counted})" if self.hits else f"nothing found: {unknown}"
        if self.nothing_found and self.nearest is not None:
            if self.searched == 1:
                return f"nothing found: the only image, {self.nearest.path}, does not match {self.query}"
            return (
                f"nothing found: none of the {self.searched:,} images matches {self.query}; the nearest, "
                f"{self.nearest.path}, is below the relevance cutoff"
            )
        if not self.hits:
            return f"page {self.page} is empty: {self.query} has {self.counted}"
        return f"{self.query}: {self.counted}"

    @property
    def counted(self) -> str:
        """How many hits among how many images, in words."""
        return f"{'at least ' if self.more else ''}{self.total:,} of {_images(self.searched)}"

    def to_dict(self) -> dict[str, Any]:
        """The page as JSON can hold it."""
        return {
            "query": self.query,
            "message": self.message,
            "total": self.total,
            "more": self.more,
            "searched": self.searched,
            "page": self.page,
            "cutoff": self.cutoff,
            "hits": [hit.to_dict() for hit in self.hits],
            "nearest": self.nearest.to_dict() if self.nearest else None,
            "unknown": list(self.unknown),
        }

    def to_pandas(self) -> pd.DataFrame:
        """The hits as a DataFrame, a row each with the fields of `Hit`, indexed by rank from `first_rank`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            pandas = require("pandas", extra="app")
        except MissingExtra as error:
            raise MissingExtra(
                "'pandas' is not installed, and diptych does not depend on it: pip install pandas"
            ) from error
        names = [column.name for column in fields(Hit)]
        rows = [[getattr(hit, name) for name in names] for hit in self.hits]
        ranks = pandas.RangeIndex(self.first_rank, self.first_rank + len(rows), name="rank")
        return pandas.DataFrame(rows, columns=names, index=ranks)

    def __repr__(self) -> str:
        lines = [
            f"{rank:>3}  {hit.score:.3f}  {hit.path}"
            for rank, hit in enumerate(self.hits[:_SHOWN_IN_REPR], self.first_rank)
        ]
        if len(self.hits) > _SHOWN_IN_REPR:
            lines.append(f"  … {len(self.hits) - _SHOWN_IN_REPR} more")
        return "\n".join([f"Results: {self.message}", *lines])

    def _repr_html_(self) -> str:
        """The page for a notebook: the message, and a tile with a thumbnail for each hit, up to a limit."""
        from diptych.search.notebook import Tile, grid_html  # decodes images, which only a notebook needs

        tiles = [
            Tile(hit.path, f"{rank} · {_scores(hit)}", (hit.caption or "").split("\n")[0])
            for rank, hit in enumerate(self.hits, self.first_rank)
        ]
        return grid_html(self.message, tiles, self.cutoff, self.readable)


def _scores(hit: Hit) -> str:
    match = "" if hit.match is None else f" · P(match) {hit.match:.2f}"
    return f"{hit.score:.3f}{match}" + (f" · {len(hit.copies) + 1} copies" if hit.copies else "")


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
