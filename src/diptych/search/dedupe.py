"""Duplicates: groups of copies in an index, with the one to keep. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from diptych.search.copies import copy_groups, pixel_comparison
from diptych.search.layout import guarded
from diptych.search.vector_search import embedding_matrix

if TYPE_CHECKING:
    from diptych.search.index import Index

_COLUMNS = ("id", "path", "hash", "phash", "size", "mtime", "width", "height", "taken", "camera", "vector")


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several copies of an image; `identical` if its bytes equal those of the one to keep.

    `size` is bytes, `width` and `height` are pixels; None where unknown.
    """

    id: str
    path: str
    size: int | None
    width: int | None
    height: int | None
    identical: bool


@dataclass(frozen=True, slots=True)
class Duplicates:
    """A group of copies: the one to keep, and the others, best first."""

    keep: Copy
    others: tuple[Copy, ...]

    @property
    def spare_bytes(self) -> int:
        """The disk space of the others, in bytes."""
        return sum(copy.size or 0 for copy in self.others)

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON can hold it."""
        return {"keep": asdict(self.keep), "others": [asdict(copy) for copy in self.others]}


def find_duplicates(index: Index, *, where: str | None = None) -> list[Duplicates]:
    """Groups of copies in an index (see `copies.copy_groups`), those with most spare bytes first.

    The one to keep has the most pixels; among equals it is one with a date or camera in its metadata (a photograph
    rather than what was saved from it), then the largest file (the least compressed), then the oldest, then the one
    with the shortest path. All others were compared with it, pixel by pixel; what cannot be read now is no duplicate
    unless its bytes are equal. `where` is an SQL condition that images must meet.
    """
    with guarded(index.folder):
        query = index.store.table.search().select(list(_COLUMNS))
        table = (query.where(where) if where else query).to_arrow().sort_by("id")
    rows = table.drop_columns("vector").to_pylist()
    order = sorted(range(len(rows)), key=lambda row: _rank(rows[row]))
    rows = [rows[row] for row in order]
    contents = [row["hash"] for row in rows]
    is_same = pixel_comparison([row["path"] for row in rows], contents, index.readable)
    groups = copy_groups(contents, [row["phash"] for row in rows], embedding_matrix(table)[order], is_same)
    duplicates = [_duplicates([rows[place] for place in group]) for group in groups]
    return sorted(duplicates, key=lambda group: (-group.spare_bytes, group.keep.path))


def _duplicates(rows: list[dict[str, Any]]) -> Duplicates:
    best, *others = rows
    return Duplicates(_copy(best, best), tuple(_copy(row, best) for row in others))


def _rank(row: dict[str, Any]) -> tuple[int, bool, int, int, int, str]:
    """Sorts the images of a group, the one to keep first."""
    pixels = (row["width"] or 0) * (row["height"] or 0)
    was_saved_again = row["taken"] is None and row["camera"] is None
    return (-pixels, was_saved_again, -row["size"], row["mtime"], len(row["path"]), row["path"])


def _copy(row: dict[str, Any], keep: dict[str, Any]) -> Copy:
    size = row["size"] if row["size"] >= 0 else None
    identical = bool(row["hash"]) and row["hash"] == keep["hash"]
    return Copy(row["id"], row["path"], size, row["width"], row["height"], identical)
