"""Snapshot of an index's rows in a few arrays, 32 bytes a row, so that an unchanged file costs only a stat call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.images.decode import content_hash
from diptych.search.store import Store


class Snapshot:
    """Ids, sizes, times and content hashes of an index's rows, for lookups by path and by content.

    Rows written after it was taken are added by `add_written` and `add_content`. Ids and hashes are held by their
    first 64 bits: the chance that two of a million files share them is 1 in 10^7, and a path only counts as unchanged
    if its size and time agree as well.
    """

    def __init__(self, store: Store, *, captions: bool = False) -> None:
        columns = ["id", "size", "mtime", "hash", *(["caption"] if captions else [])]
        parts = [_arrays(batch) for batch in store.table.search().select(columns).to_batches()]
        rows = {name: np.concatenate([part[name] for part in parts] or [np.empty(0, np.uint64)]) for name in _NAMES}
        order = np.argsort(rows["key"], kind="stable")
        self._keys, self._sizes, self._times = rows["key"][order], rows["size"][order], rows["mtime"][order]
        self._captions = rows["caption"][order] if captions else None
        self._contents = np.unique(rows["content"])
        self._new_contents: set[int] = set()
        self._written: set[int] = set()  # ids
        self._seen = np.zeros(len(order), bool)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, path_id: str) -> int | None:
        """The position of the row with this id; None if there is none."""
        key = _key(path_id)
        position = int(np.searchsorted(self._keys, key))
        return position if position < len(self._keys) and self._keys[position] == key else None

    def has_path(self, path_id: str) -> bool:
        """Whether a row with this id is in the table, from the beginning or written since."""
        return self.find(path_id) is not None or int(_key(path_id)) in self._written

    def add_written(self, path_ids: Iterable[str]) -> None:
        """Record the ids of rows that were added to the table."""
        self._written.update(int(_key(path_id)) for path_id in path_ids)

    def is_unchanged(self, position: int, size: int, mtime: int, caption: str | None) -> bool:
        """Whether the row at a position has this size and time, and this caption unless it is None."""
        same = bool(self._sizes[position] == size and self._times[position] == mtime)
        if same and caption is not None and self._captions is not None:
            return bool(self._captions[position] == _caption_key(caption))
        return same

    def mark_seen(self, position: int) -> None:
        """Record that the source still names the row at a position."""
        self._seen[position] = True

    @property
    def unseen(self) -> int:
        """How many rows were not marked as seen."""
        return len(self) - int(self._seen.sum())

    def is_unseen(self, path_id: str) -> bool:
        """Whether the row with this id was there from the beginning and was not marked as seen."""
        return (position := self.find(path_id)) is not None and not self._seen[position]

    def has_content(self, content: str) -> bool:
        """Whether a row with this content hash is in the table or was added by `add_content`."""
        key = _key(content)
        position = int(np.searchsorted(self._contents, key))
        is_known = position < len(self._contents) and self._contents[position] == key
        return bool(is_known) or int(key) in self._new_contents

    def add_content(self, content: str) -> None:
        """Record the content hash of a row that is about to be written."""
        self._new_contents.add(int(_key(content)))


_NAMES = ("key", "size", "mtime", "content", "caption")


def _arrays(batch: pa.RecordBatch) -> dict[str, NDArray[np.integer]]:
    captions = batch["caption"].to_pylist() if "caption" in batch.schema.names else []
    return {
        "key": _keys(batch["id"].to_pylist()),
        "size": batch["size"].to_numpy(),
        "mtime": batch["mtime"].to_numpy(),
        "content": _keys([content for content in batch["hash"].to_pylist() if content]),
        "caption": np.array([_caption_key(caption) for caption in captions], np.uint64),
    }


def _keys(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each hash, (hashes,)."""
    return np.frombuffer(bytes.fromhex("".join(value[:16] for value in hashes)), ">u8").astype(np.uint64)


def _key(value: str) -> np.uint64:
    return np.uint64(int(value[:16], 16))


def _caption_key(caption: str | None) -> np.uint64:
    return _key(content_hash(caption.encode("utf-8", "replace"))) if caption else np.uint64(0)
