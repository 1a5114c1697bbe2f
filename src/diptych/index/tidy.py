"""Rows whose pictures are gone: which they are, and taking them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diptych.errors import DataError
from diptych.index.files import is_gone
from diptych.index.known import Known
from diptych.index.report import Skipped
from diptych.index.sources import Source
from diptych.index.store import Store, in_list, quoted


def tidy(
    store: Store,
    source: Source,
    known: Known,
    skipped: Sequence[Skipped],
    left: Iterable[str],
    *,
    prune: bool,
    any_named: bool,
) -> tuple[int, int]:
    """After a run over `source`: take out the rows with the ids `left`, and those whose content has moved elsewhere.

    With `prune`, rows of the source's scope that it did not name go too; those in folders that could not be read stay.
    Returns how many such rows stayed, and how many went.

    Raises:
        DataError: `prune` is asked of a source that named no picture, as that of a drive that is not mounted.
    """
    unseen = _unseen(store, source, known, skipped) if known.unseen and source.scope else {}
    if prune and unseen and not any_named:
        raise DataError(
            f"'{source.scope[0]}' holds none of its {len(unseen):,} indexed pictures any more, so nothing was pruned; "
            "is its drive mounted? If they are really gone, remove the index folder"
        )
    alive = _alive(store, {content for content, _ in unseen.values() if content})
    moved = {key for key, (content, path) in unseen.items() if content in alive and is_gone(path)}
    drop = {*left, *moved}
    rest = unseen.keys() - drop
    store.delete(sorted(drop | rest if prune else drop))
    return (0, len(rest)) if prune else (len(rest), 0)


def prune_gone(store: Store) -> int:
    """Take out the rows whose files are gone, wherever they lay; returns how many."""
    gone: list[str] = []
    for batch in store.table.search().where("size >= 0").select(["id", "path"]).to_batches():
        gone += [row["id"] for row in batch.to_pylist() if is_gone(row["path"])]
    store.delete(gone)
    store.settle()
    return len(gone)


def _unseen(store: Store, source: Source, known: Known, skipped: Sequence[Skipped]) -> dict[str, tuple[str, str]]:
    """Content hash and path, by id, of the rows in the source's scope that it did not name."""
    within = " OR ".join(f"starts_with(path, {quoted(each)})" for each in source.scope)
    spared = {each.path for each in skipped if each.reason == "unreadable"}
    spared_folders = tuple(f"{path}/" for path in spared)
    unseen: dict[str, tuple[str, str]] = {}
    for batch in store.table.search().where(within).select(["id", "hash", "path"]).to_batches():
        for row in batch.to_pylist():
            if known.is_unseen(row["id"]) and row["path"] not in spared and not row["path"].startswith(spared_folders):
                unseen[row["id"]] = row["hash"], row["path"]
    return unseen


def _alive(store: Store, contents: set[str]) -> set[str]:
    """Which of these contents have a row whose file is there."""
    wanted, alive = sorted(contents), set[str]()
    for start in range(0, len(wanted), 1_000):
        query = store.table.search().where(in_list("hash", wanted[start : start + 1_000])).select(["hash", "path"])
        for batch in query.to_batches():
            alive |= {row["hash"] for row in batch.to_pylist() if row["hash"] not in alive and not is_gone(row["path"])}
    return alive
