"""Pruning: which rows leave an index. A row leaves if its file is known to be gone, never because a drive is off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal, NamedTuple

from diptych.errors import DataError, NextStep
from diptych.images.exclusions import Exclusions
from diptych.images.paths import from_text, to_text
from diptych.images.skipped import Skipped
from diptych.images.walk import shown
from diptych.search.rows import Row
from diptych.search.snapshot import Snapshot
from diptych.search.sources import Source
from diptych.search.store import Store, in_list, quoted
from diptych.search.volumes import Recorded, Volumes, Witness, Witnesses, known_gone

Prune = Literal["no", "gone", "unnamed"]
"""Which rows to remove that a source did not name: none, those whose file is gone, or also those that it leaves out."""
LargeLoss = Literal["refuse", "keep", "remove"]
"""What to do where most rows would leave: raise an error, keep the rows, or remove them."""

_FEW = 50  # rows whose loss is not large unless they are all there are
_SPARED = ("unreadable", "outside")  # reasons for which a source skips files and folders that are there
_SHOWN_FOLDERS = 5


class SeenOn(NamedTuple):
    """The volumes on which the rows of an index were seen, and what says that they are the same now."""

    recorded: Recorded | None
    witnesses: Witnesses

    @classmethod
    def of(cls, store: Store) -> SeenOn:
        """Those of an index, to be taken before a run writes to it."""
        recorded = store.volumes
        return cls(recorded, Volumes(recorded).find_witnesses(_witnesses(store)))


def _witnesses(store: Store) -> Iterator[Witness]:
    for batch in store.table.search().where("size >= 0").select(["path", "size", "mtime"]).to_batches():
        for row in batch.to_pylist():
            yield Witness(str(from_text(row["path"])), row["size"], row["mtime"])


class Removed(NamedTuple):
    """What became of the rows that a source did not name.

    `gone` had files that are gone, and were kept; `pruned` were removed; `unreachable` were kept, since their files lie
    below the `folders`, which cannot be reached now.
    """

    gone: int = 0
    pruned: int = 0
    unreachable: int = 0
    folders: tuple[str, ...] = ()


def is_large_loss(lost: int, total: int) -> bool:
    """Whether so many of `total` rows need a second word before they are removed: all of them, or most of many."""
    return lost > 1 and (lost >= total or (lost > _FEW and 2 * lost > total))


def remove_stale(
    store: Store,
    source: Source,
    snapshot: Snapshot,
    skipped: Sequence[Skipped],
    stale: AbstractSet[str],
    seen_on: SeenOn,
    *,
    prune: Prune = "no",
    large_loss: LargeLoss = "refuse",
) -> Removed:
    """After a run over `source`, remove the rows with the ids `stale` and those that interrupted renames left behind.

    `seen_on` are the volumes as they were before the run. `prune` says which other rows in the source's scope that it
    did not name are removed too. Rows in folders that could not be read, or cannot be reached now, always stay.

    Raises:
        DataError: most rows of the source would be removed, and `large_loss` is "refuse".
    """
    unseen = _unseen(store, source, snapshot, skipped, stale) if snapshot.unseen and source.scope else {}
    volumes = Volumes(*seen_on)
    states = {key: volumes.state(row["path"]) for key, row in unseen.items()}
    confirmed = known_gone((unseen[key]["path"] for key, state in states.items() if state == "gone"), *seen_on)
    gone = {key for key, row in unseen.items() if row["path"] in confirmed}
    unreachable = [unseen[key]["path"] for key, state in states.items() if state != "there" and key not in gone]
    alive = _alive(store, volumes, {unseen[key]["hash"] for key in gone if unseen[key]["hash"]})
    renamed = {key for key in gone if (unseen[key]["hash"], unseen[key]["mtime"]) in alive}
    left_out = {key for key, state in states.items() if state == "there"} if prune == "unnamed" else set()
    lost = ((gone - renamed) | left_out) if prune != "no" else set()
    if lost and large_loss != "remove" and is_large_loss(len(lost), _in_scope(store, source) - len(stale | renamed)):
        if large_loss == "refuse":
            raise _large_loss(f"pruning '{source.scope[0]}'", len(lost))
        lost = set()
    store.delete(sorted(stale | renamed | lost))
    return Removed(
        gone=len(gone - renamed - lost),
        pruned=len(renamed | lost),
        unreachable=len(unreachable),
        folders=tuple(sorted({volumes.unreachable_folder(path) for path in unreachable})[:_SHOWN_FOLDERS]),
    )


def prune_gone(store: Store, large_loss: LargeLoss = "refuse") -> Removed:
    """Remove the rows whose files are known to be gone, wherever they were.

    Raises:
        DataError: that would be most rows, and `large_loss` is "refuse".
    """
    seen_on = SeenOn.of(store)
    volumes, unreachable = Volumes(*seen_on), list[str]()
    missing: dict[str, str] = {}  # id by path
    for batch in store.table.search().where("size >= 0").select(["id", "path"]).to_batches():
        for row in batch.to_pylist():
            state = volumes.state(row["path"])
            if state == "gone":
                missing[row["path"]] = row["id"]
            elif state == "unreachable":
                unreachable.append(row["path"])
    gone = sorted(missing[path] for path in known_gone(missing, *seen_on))
    if large_loss != "remove" and is_large_loss(len(gone), len(store)):
        if large_loss == "refuse":
            raise _large_loss("pruning", len(gone))
        return Removed(gone=len(gone), unreachable=len(unreachable))
    store.delete(gone)
    store.finish_additions()
    return Removed(pruned=len(gone), unreachable=len(unreachable))


def remove_excluded(store: Store, root: Path, exclusions: Exclusions, large_loss: LargeLoss = "refuse") -> int:
    """Remove the rows below `root` that are excluded, and return how many. Their files are not touched.

    Raises:
        DataError: that would be most rows below `root`, and `large_loss` is "refuse".
    """
    total, excluded = 0, list[str]()
    scope = _condition([to_text(root).rstrip("/") + "/"])
    for batch in store.table.search().where(scope).select(["id", "path"]).to_batches():
        for row in batch.to_pylist():
            total += 1
            if exclusions.excludes_below(str(from_text(row["path"]))):
                excluded.append(row["id"])
    if large_loss == "refuse" and is_large_loss(len(excluded), total):
        raise _large_loss(f"excluding {', '.join(map(repr, exclusions.patterns.get(str(root), ())))}", len(excluded))
    store.delete(sorted(excluded))
    return len(excluded)


def forget(store: Store, folder: str) -> int:
    """Remove the row of a path and all rows below it, whether their files exist or not; returns how many."""
    prefix = folder.rstrip("/") + "/"
    condition = f"path = {quoted(folder)} OR {_condition([prefix])}"
    count: int = store.table.count_rows(condition)
    store.table.delete(condition)
    return count


def _large_loss(action: str, lost: int) -> DataError:
    return DataError(
        f"{action} would remove {lost:,} images, all or most of those there are, so nothing was removed; check "
        "whether a drive is not mounted, or a pattern too wide",
        steps=[NextStep("if they are to leave the index, say so", "prune_all")],
    )


def _condition(prefixes: Iterable[str]) -> str:
    return " OR ".join(f"starts_with(path, {quoted(prefix)})" for prefix in prefixes)


def _in_scope(store: Store, source: Source) -> int:
    """How many rows come from the source, without those of which only an embedding is known."""
    count: int = store.table.count_rows(f"({_condition(source.scope)}) AND size >= 0")
    return count


def _unseen(
    store: Store, source: Source, snapshot: Snapshot, skipped: Sequence[Skipped], stale: AbstractSet[str]
) -> dict[str, Row]:
    """By id, the rows in the source's scope that it did not name, with hash, path and time."""
    spared = {skip.path for skip in skipped if skip.reason in _SPARED}
    spared_folders = tuple(f"{path}/" for path in spared)
    scope = f"({_condition(source.scope)}) AND size >= 0"
    unseen: dict[str, Row] = {}
    for batch in store.table.search().where(scope).select(["id", "hash", "path", "mtime"]).to_batches():
        for row in batch.to_pylist():
            if row["id"] in stale or not snapshot.is_unseen(row["id"]):
                continue
            # A source reports a path by its text, or with undecodable bytes replaced.
            names = (row["path"], shown(from_text(row["path"])))
            if not any(name in spared or name.startswith(spared_folders) for name in names):
                unseen[row["id"]] = row
    return unseen


def _alive(store: Store, volumes: Volumes, contents: set[str]) -> set[tuple[str, int]]:
    """Content and time of the rows with these contents whose files exist: a renamed file keeps both."""
    wanted, alive = sorted(contents), set[tuple[str, int]]()
    for start in range(0, len(wanted), 1_000):
        query = store.table.search().where(in_list("hash", wanted[start : start + 1_000]))
        for batch in query.select(["hash", "mtime", "path"]).to_batches():
            rows = batch.to_pylist()
            alive |= {(row["hash"], row["mtime"]) for row in rows if volumes.state(row["path"]) == "there"}
    return alive
