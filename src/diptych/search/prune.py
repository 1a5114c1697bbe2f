"""Rows whose pictures are gone: which they are, and taking them out."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from diptych.errors import DataError
from diptych.images.skipped import Skipped
from diptych.images.walk import is_gone
from diptych.search.inventory import Known
from diptych.search.rows import Row
from diptych.search.sources import Source
from diptych.search.store import Store, in_list, quoted


class Pruned(NamedTuple):
    """How many rows that the source no longer names stayed, and how many were taken out."""

    gone: int
    pruned: int


def tidy(
    store: Store,
    source: Source,
    known: Known,
    skipped: Sequence[Skipped],
    left: AbstractSet[str],
    *,
    prune: bool,
    any_named: bool,
) -> Pruned:
    """After a run over `source`: take out the rows with the ids `left`, and those of renamings that were cut off.

    With `prune`, rows of the source's scope that it did not name go too; those in folders that could not be read stay.

    Raises:
        DataError: `prune` is asked of a source that named no picture, as that of a drive that is not mounted.
    """
    unseen = _unseen(store, source, known, skipped) if known.unseen and source.scope else {}
    if prune and unseen and not any_named:
        raise DataError(
            f"'{source.scope[0]}' holds none of its {len(unseen):,} indexed pictures any more, so nothing was pruned; "
            "is its drive mounted? If they are really gone, remove the index folder"
        )
    gone = {key: row for key, row in unseen.items() if key not in left and is_gone(row["path"])}
    alive = _alive(store, {row["hash"] for row in gone.values() if row["hash"]})
    moved = {key for key, row in gone.items() if (row["hash"], row["mtime"]) in alive}
    pruned = unseen.keys() - left if prune else moved
    store.delete(sorted(left | pruned))
    return Pruned(gone=len(unseen.keys() - left - pruned), pruned=len(pruned))


def prune_gone(store: Store) -> int:
    """Take out the rows whose files are gone, wherever they lay; returns how many."""
    gone: list[str] = []
    for batch in store.table.search().where("size >= 0").select(["id", "path"]).to_batches():
        gone += [row["id"] for row in batch.to_pylist() if is_gone(row["path"])]
    store.delete(gone)
    store.settle()
    return len(gone)


def _unseen(store: Store, source: Source, known: Known, skipped: Sequence[Skipped]) -> dict[str, Row]:
    """By id, the rows in the source's scope that it did not name: hash, path and time."""
    within = " OR ".join(f"starts_with(path, {quoted(each)})" for each in source.scope)
    spared = {each.path for each in skipped if each.reason == "unreadable"}
    spared_folders = tuple(f"{path}/" for path in spared)
    unseen: dict[str, Row] = {}
    for batch in store.table.search().where(within).select(["id", "hash", "path", "mtime"]).to_batches():
        for row in batch.to_pylist():
            if known.is_unseen(row["id"]) and row["path"] not in spared and not row["path"].startswith(spared_folders):
                unseen[row["id"]] = row
    return unseen


def _alive(store: Store, contents: set[str]) -> set[tuple[str, int]]:
    """Content and time of the rows with these contents whose files are there: a renamed file keeps both."""
    wanted, alive = sorted(contents), set[tuple[str, int]]()
    for start in range(0, len(wanted), 1_000):
        query = store.table.search().where(in_list("hash", wanted[start : start + 1_000]))
        for batch in query.select(["hash", "mtime", "path"]).to_batches():
            alive |= {(row["hash"], row["mtime"]) for row in batch.to_pylist() if not is_gone(row["path"])}
    return alive
