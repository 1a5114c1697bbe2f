"""Rebasing: new paths for the rows of a library that was moved together with its index."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.compute as pc

from diptych.images.paths import from_text, path_id, to_text
from diptych.search.metadata import update_metadata
from diptych.search.store import Store, quoted

_BLOCK = 4_096  # rows that are rewritten at once


def rebase(store: Store) -> int:
    """Give the rows of a moved library their new paths, and return how many there were. The caller holds the lock.

    A row keeps its old path if only that exists, as when the index was put into another library. An interrupted run is
    completed by the next one.
    """
    if store.moved_from is None or store.root is None:
        return 0
    old, new = to_text(store.moved_from).rstrip("/") + "/", to_text(store.root).rstrip("/") + "/"
    below = f"starts_with(path, {quoted(old)})"
    ids = [
        row["id"]
        for batch in store.table.search().where(below).select(["id", "path"]).to_batches()
        for row in batch.to_pylist()
        if _has_moved(row["path"], new + row["path"][len(old) :])
    ]
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        _write(store, _moved(store.rows(block), old, new))
        store.delete(block)
    store.compact_if_scattered()
    store.record_exclusions({_below(folder, store): given for folder, given in store.exclusions.items()})
    update_metadata(store.folder, root=str(store.root))
    store.moved_from = None
    return len(ids)


def _has_moved(old: str, new: str) -> bool:
    return os.path.lexists(from_text(new)) or not os.path.lexists(from_text(old))


def _moved(rows: pa.Table, old: str, new: str) -> pa.Table:
    """The rows with their paths below `new` instead of `old`."""
    paths = [new + path[len(old) :] for path in rows["path"].to_pylist()]
    columns = {
        "id": [path_id(path) for path in paths],
        "path": paths,
        "folder": [path.rpartition("/")[0] or "/" for path in paths],
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values))
    return rows


def _write(store: Store, rows: pa.Table) -> None:
    """Append rows, or replace those that an interrupted run or a copied library has written already."""
    ids = rows["id"].to_pylist()
    known = set(store.rows(ids, ["id"])["id"].to_pylist())
    is_known = pa.array([id_ in known for id_ in ids])
    if len(known) < len(ids):
        store.add(rows.filter(pc.invert(is_known)))
    if known:
        store.replace(rows.filter(is_known))


def _below(folder: str, store: Store) -> str:
    """A folder of the old library as one of the new; others as they are."""
    old = str(store.moved_from)
    if folder != old and not folder.startswith(old.rstrip(os.sep) + os.sep):
        return folder
    return str(store.root) + folder[len(old.rstrip(os.sep)) :]
