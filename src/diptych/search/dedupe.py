"""Duplicates: pictures of an index that are the same, grouped, with the one to keep. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diptych.search.copies import copy_groups
from diptych.search.nearest import matrix

if TYPE_CHECKING:
    from diptych.search.index import Index

_COLUMNS = ("id", "path", "hash", "phash", "size", "mtime", "width", "height", "vector")


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several pictures that are the same; `identical`: its bytes are those of the one to keep."""

    id: str
    path: str
    size: int | None
    width: int | None
    height: int | None
    identical: bool


@dataclass(frozen=True, slots=True)
class Duplicates:
    """A group of pictures that are the same: the one to keep, and the others, best first."""

    keep: Copy
    others: tuple[Copy, ...]

    @property
    def spare_bytes(self) -> int:
        """What the others take up on disk."""
        return sum(copy.size or 0 for copy in self.others)

    def as_dict(self) -> dict[str, Any]:
        return {"keep": _as_dict(self.keep), "others": [_as_dict(copy) for copy in self.others]}


def find_duplicates(index: Index, *, where: str | None = None) -> list[Duplicates]:
    """Groups of pictures of the index that are the same (`copies.copy_groups`), those with most to spare first.

    Kept is the picture with the most pixels; of equals the one with the most bytes (the least compressed), then the
    oldest, then the one with the shortest path. `where` is an SQL condition that pictures must meet.
    """
    query = index.store.table.search().select(list(_COLUMNS))
    table = (query.where(where) if where else query).to_arrow().sort_by("id")
    rows = table.drop_columns("vector").to_pylist()
    groups = copy_groups([row["hash"] for row in rows], [row["phash"] for row in rows], matrix(table))
    found = [_duplicates([rows[at] for at in group]) for group in groups]
    return sorted(found, key=lambda each: (-each.spare_bytes, each.keep.path))


def _duplicates(rows: list[dict[str, Any]]) -> Duplicates:
    best, *others = sorted(rows, key=_rank)
    return Duplicates(_copy(best, best), tuple(_copy(row, best) for row in others))


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    pixels = (row["width"] or 0) * (row["height"] or 0)
    return (-pixels, -row["size"], row["mtime"], len(row["path"]), row["path"])


def _copy(row: dict[str, Any], keep: dict[str, Any]) -> Copy:
    size = row["size"] if row["size"] >= 0 else None
    identical = bool(row["hash"]) and row["hash"] == keep["hash"]
    return Copy(row["id"], row["path"], size, row["width"], row["height"], identical)


def _as_dict(copy: Copy) -> dict[str, Any]:
    return {name: getattr(copy, name) for name in Copy.__slots__}
