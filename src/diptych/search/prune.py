"""Pruning: find the rows whose images are gone, and remove them."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from diptych.errors import DataError
from diptych.images.skipped import Skipped
from diptych.images.walk import is_gone
from diptych.search.rows import Row
from diptych.search.snapshot import Snapshot
from diptych.search.sources import Source
from diptych.search.store import Store, in_list, quoted


class Removed(NamedTuple):
    """How many rows that the source no longer names were kept (`gone`), and how many were removed (`pruned`)."""

    gone: int
    pruned: int


def remove_stale(
    store: Store,
    source: Source,
    snapshot: Snapshot,
    skipped: Sequence[Skipped],
    stale: AbstractSet[str],
    *,
    prune: bool,
    named_any: bool,
) -> Removed:
    """After a run over `source`, remove the rows with the ids `stale` and those that interrupted renames left behind.

    With `prune`, rows in the source's scope that it did not name are removed too, except in folders that could not be
    read. `named_any` is whether the source named any image.

    Raises:
        DataError: `prune` was requested and the source named no image, as when its drive is not mounted.
    """
    unseen = _unseen(store, source, snapshot, skipped) if snapshot.unseen and source.scope else {}
    if prune and unseen and not named_any:
        raise DataError(
            f"'{source.scope[0]}' holds none of its {len(unseen):,} indexed pictures any more, so nothing was pruned; "
            "is its drive mounted? If they are really gone, remove the index folder"
        )
    gone = {key: row for key, row in unseen.items() if key not in stale and is_gone(row["path"])}
    alive = _alive(store, {row["hash"] for row in gone.values() if row["hash"]})
    renamed = {key for key, row in gone.items() if (row["hash"], row["mtime"]) in alive}
    pruned = unseen.keys() - stale if prune else renamed
    store.delete(sorted(stale | pruned))
    return Removed(gone=len(unseen.keys() - stale - pruned), pruned=len(pruned))


def prune_gone(store: Store) -> int:
    """Remove the rows whose files are gone, wherever they were, and return how many."""
    gone: list[str] = []
    for batch in store.table.search().where("size >= 0").select(["id", "path"]).to_batches():
        gone += [row["id"] for row in batch.to_pylist() if is_gone(row["path"])]
    store.delete(gone)
    store.configure_tokenizer()
    return len(gone)


def _unseen(store: Store, source: Source, snapshot: Snapshot, skipped: Sequence[Skipped]) -> dict[str, Row]:
    """By id, the rows in the source's scope that it did not name, with hash, path and time."""
    in_scope = " OR ".join(f"starts_with(path, {quoted(prefix)})" for prefix in source.scope)
    unreadable = {skip.path for skip in skipped if skip.reason == "unreadable"}
    unreadable_folders = tuple(f"{path}/" for path in unreadable)
    unseen: dict[str, Row] = {}
    for batch in store.table.search().where(in_scope).select(["id", "hash", "path", "mtime"]).to_batches():
        for row in batch.to_pylist():
            is_spared = row["path"] in unreadable or row["path"].startswith(unreadable_folders)
            if snapshot.is_unseen(row["id"]) and not is_spared:
                unseen[row["id"]] = row
    return unseen


def _alive(store: Store, contents: set[str]) -> set[tuple[str, int]]:
    """Content and time of the rows with these contents whose files exist: a renamed file keeps both."""
    wanted, alive = sorted(contents), set[tuple[str, int]]()
    for start in range(0, len(wanted), 1_000):
        query = store.table.search().where(in_list("hash", wanted[start : start + 1_000]))
        for batch in query.select(["hash", "mtime", "path"]).to_batches():
            alive |= {(row["hash"], row["mtime"]) for row in batch.to_pylist() if not is_gone(row["path"])}
    return alive
