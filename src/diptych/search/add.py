"""Adding pictures to an index: look at each file, embed what is new, and commit a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from diptych.images.paths import path_id
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.images.walk import is_gone
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent
from diptych.search.add_report import Added
from diptych.search.inventory import Known
from diptych.search.prune import tidy
from diptych.search.rows import Prepared, Row, embed, new_row, place, prepare, to_table
from diptych.search.sources import Item, Source
from diptych.search.store import Store, in_list

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

_COMMIT_ROWS = 1_024
_COMMIT_SECONDS = 5.0  # what a killed run loses at most
_PASSING = ("missing", "unreadable")  # faults of the moment; others mean that the file's content is no picture

Kind = Literal["new", "changed", "renamed", "copied", "touched"]


def add(
    store: Store,
    source: Source,
    model: Callable[[], DualEncoder],
    *,
    prune: bool = False,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Added:
    """Bring the index up to date with a source; call it under the store's lock.

    Files whose size and time are those of the index are not read. Others are read and hashed; content that the index
    has, under whatever path, takes its vector from there. What no longer stands in the source stays unless `prune`.
    `progress` gets what became of each picture that was read: a `Prepared` or a `Skipped`.

    Raises:
        DataError: the source cannot be read, or `prune` would take out all that came from it.
    """
    began = time.perf_counter()
    run = _Run(store, source, model, batch_size)
    unchanged, waiting = run.look()
    if waiting:
        run.take(progress(prefetch(run.candidates(), run.prepare, ahead=batch_size), waiting, "indexing"))
    named = unchanged + waiting > 0
    tidied = tidy(store, source, run.known, run.skipped, run.left, prune=prune, any_named=named)
    store.settle()
    counts = run.counts
    return Added(
        new=counts["new"],
        unchanged=unchanged + counts["touched"],
        renamed=counts["renamed"],
        copied=counts["copied"],
        changed=counts["changed"],
        gone=tidied.gone,
        pruned=tidied.pruned,
        embedded=run.embedded,
        skipped=tuple(run.skipped),
        seconds=time.perf_counter() - began,
    )


class _Run:
    """One pass over one source: what is known, what waits to be written, and the counts."""

    def __init__(self, store: Store, source: Source, model: Callable[[], DualEncoder], batch_size: int) -> None:
        self.store, self.source, self.model, self.batch_size = store, source, model, batch_size
        self.roots: Roots = getattr(source, "roots", ANYWHERE)
        self.known = Known(store, captions=source.captioned)
        self.skipped: list[Skipped] = []
        self.left: set[str] = set()  # ids of rows whose file moved on or is no picture any more
        self.counts: dict[Kind, int] = {"new": 0, "changed": 0, "renamed": 0, "copied": 0, "touched": 0}
        self.embedded = 0
        self._rows: dict[str, Row] = {}  # by id, still to be committed
        self._committed_at = time.monotonic()

    # looking: a stat for each file, nothing read

    def look(self) -> tuple[int, int]:
        """How many pictures are as the index knows them, and how many are not."""
        unchanged = waiting = 0
        for item in self.source.items():
            if isinstance(item, Skipped):
                self.skipped.append(item)
            elif self._is_unchanged(item):
                unchanged += 1
            else:
                waiting += 1
        return unchanged, waiting

    def candidates(self) -> Iterator[Item]:
        """The pictures that are not as the index knows them. Looking again costs less than keeping a million paths."""
        return (item for item in self.source.items() if isinstance(item, Item) and not self._is_unchanged(item))

    def _is_unchanged(self, item: Item) -> bool:
        at = self.known.find(path_id(item.path))
        if at is None:
            return False
        self.known.see(at)
        return self.known.is_unchanged(at, item.size, item.mtime, item.caption)

    # reading in threads, embedding and writing in the order of the source

    def prepare(self, item: Item) -> Prepared | Skipped:
        return prepare(item, self.model, self.store.identity.image_size, self.known.has_content, self.roots)

    def take(self, prepared: Iterable[Prepared | Skipped]) -> None:
        batch: list[Prepared] = []
        for each in prepared:
            if isinstance(each, Skipped):
                self._skip(each)
                continue
            batch.append(each)
            if len(batch) == self.batch_size:
                self._embed(batch)
                batch = []
        self._embed(batch)
        self._commit()

    def _skip(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        if skipped.reason not in _PASSING and self.known.holds(path_id(skipped.path)):
            self.left.add(path_id(skipped.path))

    def _embed(self, batch: Sequence[Prepared]) -> None:
        """Rows of a batch: what has known content takes the vector that is there, the rest goes through the model."""
        there = self._contents(sorted({each.content for each in batch if self.known.has_content(each.content)}))
        fresh: dict[str, Prepared] = {}
        copies: list[Prepared] = []
        for each in batch:
            found: Prepared | Skipped = each
            if each.features is None and each.content not in there:  # its only row was changed in the meantime
                found = prepare(
                    each.item, self.model, self.store.identity.image_size, lambda content: False, self.roots
                )
            if isinstance(found, Skipped):
                self._skip(found)
            elif found.content in there or found.content in fresh:
                copies.append(found)
            else:
                fresh[found.content] = found
        vectors = embed(list(fresh.values()), self.model()) if fresh else ()
        for found, vector in zip(fresh.values(), vectors, strict=True):
            row = new_row(found, vector)
            there[found.content] = [row]
            self._put(row, "changed" if self.known.holds(row["id"]) else "new")
        self.embedded += len(fresh)
        for each in copies:
            self._copy(each.item, min(there[each.content], key=self._is_taken))
        if len(self._rows) >= _COMMIT_ROWS or time.monotonic() > self._committed_at + _COMMIT_SECONDS:
            self._commit()

    def _contents(self, contents: Sequence[str]) -> dict[str, list[Row]]:
        """For each of these content hashes that there are, the rows of the index and of what waits to be committed."""
        rows: dict[str, list[Row]] = {}
        for row in self._rows.values():
            if row["hash"] in contents:
                rows.setdefault(row["hash"], []).append(row)
        if contents:
            for batch in self.store.table.search().where(in_list("hash", contents)).to_batches():
                for row in batch.to_pylist():
                    rows.setdefault(row["hash"], []).append(row)
        return rows

    def _is_taken(self, row: Row) -> tuple[bool, str]:
        """False first for a row that a renamed file can take over."""
        return row["id"] in self.left or not is_gone(row["path"]), row["id"]

    def _copy(self, item: Item, row: Row) -> None:
        """A row for another path to known content; where the old path is gone, that is a renaming."""
        key = path_id(item.path)
        same, known = row["id"] == key, self.known.holds(key)
        moved = not known and row["id"] not in self.left and is_gone(row["path"])
        if moved:
            self.left.add(row["id"])
        kept = row.get("caption") if moved or same else None
        caption = item.caption or kept
        touched = same and caption == kept
        kind: Kind = "touched" if touched else "changed" if known else "renamed" if moved else "copied"
        self._put({**row, **place(item), "caption": caption}, kind)

    def _put(self, row: Row, kind: Kind) -> None:
        self._rows[row["id"]] = row
        self.known.remember(row["hash"])
        self.counts[kind] += 1

    def _commit(self) -> None:
        """Write what waits: new paths are appended, known ones replaced, a transaction each."""
        known = [row for key, row in self._rows.items() if self.known.holds(key)]
        fresh = [row for key, row in self._rows.items() if not self.known.holds(key)]
        if fresh:
            self.store.add(to_table(fresh, self.store.identity.dim))
            self.known.note_written(row["id"] for row in fresh)
        if known:
            self.store.replace(to_table(known, self.store.identity.dim))
        self.store.compact_if_scattered()
        self._rows = {}
        self._committed_at = time.monotonic()
