"""Adding to an index: look at each file, embed what is new, and commit in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from diptych.images.paths import from_text, path_id, to_text
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent
from diptych.search.add_report import AddReport
from diptych.search.prune import LargeLoss, Prune, SeenOn, remove_stale
from diptych.search.rows import PreparedImage, Row, embed_images, file_columns, image_row, prepare_image, to_table
from diptych.search.snapshot import Snapshot
from diptych.search.sources import Folder, Item, Source
from diptych.search.store import Store, in_list
from diptych.search.volumes import OTHER, Volumes, identity_of, known_gone

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

_COMMIT_ROWS = 1_024
_COMMIT_SECONDS = 5.0  # the most work that an interrupted run loses
_TRANSIENT = ("missing", "unreadable")  # other reasons mean that the file's content is not an image

Change = Literal["new", "changed", "renamed", "copied", "touched"]


def add(
    store: Store,
    source: Source,
    model: Callable[[], DualEncoder],
    *,
    prune: Prune = "no",
    large_loss: LargeLoss = "refuse",
    batch_size: int = 32,
    progress: Progress = silent,
) -> AddReport:
    """Bring the index up to date with a source. The caller holds the store's lock.

    Files whose size and time equal those in the index are not read. Others are read and hashed; content that the index
    has under any path takes its embedding from there. `prune` and `large_loss` are those of `prune.remove_stale`.
    `progress` wraps the images that are read, each a `PreparedImage` or a `Skipped`.

    Raises:
        DataError: the source cannot be read, or `prune` would remove most of what came from it.
    """
    began = time.perf_counter()
    run = _Run(store, source, model, batch_size)
    unchanged, pending = run.scan()
    if pending:
        run.process(progress(prefetch(run.pending_items(), run.prepare, ahead=batch_size), pending, "indexing"))
    removed = remove_stale(
        store, source, run.snapshot, run.skipped, run.stale, run.seen_on, prune=prune, large_loss=large_loss
    )
    store.finish_additions()
    counts = run.counts
    return AddReport(
        new=counts["new"],
        unchanged=unchanged + counts["touched"],
        renamed=counts["renamed"],
        copied=counts["copied"],
        changed=counts["changed"],
        gone=removed.gone,
        pruned=removed.pruned,
        unreachable=removed.unreachable,
        unreachable_folders=removed.folders,
        embedded=run.embedded,
        skipped=tuple(run.skipped),
        seconds=time.perf_counter() - began,
        unread=source.unread.by_suffix() if isinstance(source, Folder) else {},
    )


class _Run:
    """One pass over one source: the rows that are known, the rows to be written, and the counts."""

    def __init__(self, store: Store, source: Source, model: Callable[[], DualEncoder], batch_size: int) -> None:
        self.store, self.source, self.model, self.batch_size = store, source, model, batch_size
        self.roots: Roots = getattr(source, "roots", ANYWHERE)
        self.seen_on = SeenOn.of(store)  # before this run records volumes and writes rows
        self.snapshot = Snapshot(store, captions=source.captioned)
        self.skipped: list[Skipped] = []
        self.stale: set[str] = set()  # ids of rows whose file was renamed or is no longer an image
        self.counts: dict[Change, int] = {"new": 0, "changed": 0, "renamed": 0, "copied": 0, "touched": 0}
        self.embedded = 0
        self._rows: dict[str, Row] = {}  # by id, not yet committed
        self._gone: set[str] = set()  # paths of known rows whose files are known to be gone
        self._committed_at = time.monotonic()

    # scanning: a stat call for each file, nothing is read

    def scan(self) -> tuple[int, int]:
        """The number of unchanged images, and of those that must be read."""
        unchanged = pending = 0
        places: set[str] = set()  # as text: the folders, and links to files, which may lie on another volume
        for item in self.source.items():
            if isinstance(item, Skipped):
                self.skipped.append(item)
                continue
            places.add(item.path if item.is_link else item.path.rpartition("/")[0] or "/")
            if self._is_unchanged(item):
                unchanged += 1
            else:
                pending += 1
        self._record_volumes(places)
        return unchanged, pending

    def _record_volumes(self, places: Iterable[str]) -> None:
        """Remember on which volumes the images lie, before any row depends on it."""
        mounted, volumes = Volumes(None), set[str]()
        for place in places:
            with suppress(OSError, ValueError):  # it has just gone, or is an image in memory
                volumes.add(mounted.volume_of(str(from_text(place))))
        complete = not self.snapshot.unseen
        others = set[str]() if complete else self._others(volumes)
        identities = {
            to_text(volume): [
                *filter(None, [identity_of(volume)]),
                *([OTHER] if volume in others else []),
            ]
            for volume in volumes
        }
        self.store.record_volumes(identities, complete=complete)

    def _others(self, volumes: set[str]) -> set[str]:
        """The volumes at whose folders rows of the index may have been on another file system.

        One without identity was recorded there and is not known to be the same, or a drive is mounted over a folder
        that held images.
        """
        before = Volumes(*self.seen_on)
        new = {volume for volume in volumes if not before.is_recorded(volume)}
        others = {volume for volume in volumes if before.is_other(volume)}
        for batch in self.store.table.search().where("size >= 0").select(["id", "path"]).to_batches() if new else ():
            for row in batch.to_pylist():
                if self.snapshot.is_unseen(row["id"]):
                    others |= {volume for volume in new if before.hides(volume, row["path"])}
        return others

    def pending_items(self) -> Iterator[Item]:
        """The images that must be read. A second scan costs less than keeping a million paths in memory."""
        return (item for item in self.source.items() if isinstance(item, Item) and not self._is_unchanged(item))

    def _is_unchanged(self, item: Item) -> bool:
        position = self.snapshot.find(path_id(item.path))
        if position is None:
            return False
        self.snapshot.mark_seen(position)
        return self.snapshot.is_unchanged(position, item.size, item.mtime, item.caption)

    # reading in threads; embedding and writing in the order of the source

    def prepare(self, item: Item) -> PreparedImage | Skipped:
        """Read an image; decode it unless the index has its content. Called in threads."""
        return prepare_image(item, self.model, self.store.identity.image_size, self.snapshot.has_content, self.roots)

    def process(self, images: Iterable[PreparedImage | Skipped]) -> None:
        """Embed and write the images in batches."""
        batch: list[PreparedImage] = []
        for image in images:
            if isinstance(image, Skipped):
                self._skip(image)
                continue
            batch.append(image)
            if len(batch) == self.batch_size:
                self._process_batch(batch)
                batch = []
        self._process_batch(batch)
        self._commit()

    def _skip(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        if skipped.reason not in _TRANSIENT and self.snapshot.has_path(path_id(skipped.path)):
            self.stale.add(path_id(skipped.path))

    def _process_batch(self, batch: Sequence[PreparedImage]) -> None:
        """Put the rows of a batch: known content takes its embedding from there, the rest goes through the model."""
        rows_by_content = self._rows_with(
            {image.content for image in batch if self.snapshot.has_content(image.content)}
        )
        paths = {row["path"] for rows in rows_by_content.values() for row in rows}
        self._gone = known_gone(paths, *self.seen_on) if paths else set()
        new: dict[str, PreparedImage] = {}
        copies: list[PreparedImage] = []
        for image in batch:
            complete = self._complete(image, rows_by_content)
            if isinstance(complete, Skipped):
                self._skip(complete)
            elif complete.content in rows_by_content or complete.content in new:
                copies.append(complete)
            else:
                new[complete.content] = complete
        embeddings = embed_images(list(new.values()), self.model()) if new else ()
        for image, embedding in zip(new.values(), embeddings, strict=True):
            row = image_row(image, embedding)
            rows_by_content[image.content] = [row]
            self._put(row, "changed" if self.snapshot.has_path(row["id"]) else "new")
        self.embedded += len(new)
        for image in copies:
            self._copy(image.item, min(rows_by_content[image.content], key=self._copy_order))
        if len(self._rows) >= _COMMIT_ROWS or time.monotonic() > self._committed_at + _COMMIT_SECONDS:
            self._commit()

    def _complete(self, image: PreparedImage, rows_by_content: dict[str, list[Row]]) -> PreparedImage | Skipped:
        """The image with its features where they are needed: its content was known, but its only row has changed."""
        if image.features is not None or image.content in rows_by_content:
            return image
        return prepare_image(image.item, self.model, self.store.identity.image_size, _is_unknown, self.roots)

    def _rows_with(self, contents: set[str]) -> dict[str, list[Row]]:
        """The rows with each of these content hashes, committed or not."""
        rows: dict[str, list[Row]] = {}
        for row in self._rows.values():
            if row["hash"] in contents:
                rows.setdefault(row["hash"], []).append(row)
        if contents:
            for batch in self.store.table.search().where(in_list("hash", sorted(contents))).to_batches():
                for row in batch.to_pylist():
                    rows.setdefault(row["hash"], []).append(row)
        return rows

    def _copy_order(self, row: Row) -> tuple[bool, str]:
        """Sorts a row that a renamed file can take over before the others."""
        return row["id"] in self.stale or row["path"] not in self._gone, row["id"]

    def _copy(self, item: Item, row: Row) -> None:
        """Put a row for another path to known content; if its old file is known to be gone, it was renamed."""
        key = path_id(item.path)
        same, known = row["id"] == key, self.snapshot.has_path(key)
        renamed = not known and row["id"] not in self.stale and row["path"] in self._gone
        if renamed:
            self.stale.add(row["id"])
        old_caption = row.get("caption") if renamed or same else None
        caption = item.caption or old_caption
        touched = same and caption == old_caption
        change: Change = "touched" if touched else "changed" if known else "renamed" if renamed else "copied"
        self._put({**row, **file_columns(item), "caption": caption}, change)

    def _put(self, row: Row, change: Change) -> None:
        self._rows[row["id"]] = row
        self.snapshot.add_content(row["hash"])
        self.counts[change] += 1

    def _commit(self) -> None:
        """Write the pending rows: new paths are appended and known ones replaced, in a transaction each."""
        known = [row for key, row in self._rows.items() if self.snapshot.has_path(key)]
        new = [row for key, row in self._rows.items() if not self.snapshot.has_path(key)]
        if new:
            self.store.add(to_table(new, self.store.identity.dim))
            self.snapshot.add_written(row["id"] for row in new)
        if known:
            self.store.replace(to_table(known, self.store.identity.dim))
        self.store.compact_if_scattered()
        self._rows = {}
        self._committed_at = time.monotonic()


def _is_unknown(content: str) -> bool:
    """Has an image decoded whatever its content."""
    return not content
