"""What an index holds already, in a few arrays: 32 bytes a row, so that an unchanged file costs a stat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from diptych.images.decode import content_hash
from diptych.search.store import Store


class Known:
    """Ids, sizes, times and content hashes of an index's rows, to look files up by path and by content.

    Ids and hashes are held by their first 64 bits: that two of a million files share them has a chance of 1 in 10^7,
    and a path is only taken for unchanged if size and time agree as well.
    """

    def __init__(self, store: Store, *, captions: bool = False) -> None:
        columns = ["id", "size", "mtime", "hash", *(["caption"] if captions else [])]
        reader = store.table.search().select(columns).to_batches()
        parts = [_arrays(batch) for batch in reader]
        rows = {name: np.concatenate([part[name] for part in parts] or [np.empty(0, np.uint64)]) for name in _NAMES}
        order = np.argsort(rows["key"], kind="stable")
        self._keys, self._sizes, self._times = rows["key"][order], rows["size"][order], rows["mtime"][order]
        self._captions = rows["caption"][order] if captions else None
        self._contents = np.unique(rows["content"])
        self._recent: set[int] = set()  # contents
        self._written: set[int] = set()  # ids
        self._seen = np.zeros(len(order), bool)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, path_id: str) -> int | None:
        """The place of the row with this id; None if there is none."""
        key = _key(path_id)
        at = int(np.searchsorted(self._keys, key))
        return at if at < len(self._keys) and self._keys[at] == key else None

    def holds(self, path_id: str) -> bool:
        """Whether a row with this id is in the table, from the first or written since."""
        return self.find(path_id) is not None or int(_key(path_id)) in self._written

    def note_written(self, path_ids: Iterable[str]) -> None:
        """Note the ids of rows that were added to the table."""
        self._written.update(int(_key(each)) for each in path_ids)

    def is_unchanged(self, at: int, size: int, mtime: int, caption: str | None) -> bool:
        """Whether the row at this place has this size and time, and this caption if one is told."""
        same = bool(self._sizes[at] == size and self._times[at] == mtime)
        if same and caption is not None and self._captions is not None:
            return bool(self._captions[at] == _caption_key(caption))
        return same

    def see(self, at: int) -> None:
        """Note that the row at this place still stands for something."""
        self._seen[at] = True

    @property
    def unseen(self) -> int:
        """How many rows were not seen."""
        return len(self) - int(self._seen.sum())

    def is_unseen(self, path_id: str) -> bool:
        """Whether the row with this id was there from the first, and not seen."""
        return (at := self.find(path_id)) is not None and not self._seen[at]

    def has_content(self, content: str) -> bool:
        """Whether a row with this content hash is there, or was remembered since."""
        key = _key(content)
        at = int(np.searchsorted(self._contents, key))
        return bool(at < len(self._contents) and self._contents[at] == key) or int(key) in self._recent

    def remember(self, content: str) -> None:
        """Note the content of a row that is added now."""
        self._recent.add(int(_key(content)))


_NAMES = ("key", "size", "mtime", "content", "caption")


def _arrays(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    captions = batch["caption"].to_pylist() if "caption" in batch.schema.names else []
    return {
        "key": _keys(batch["id"].to_pylist()),
        "size": batch["size"].to_numpy(),
        "mtime": batch["mtime"].to_numpy(),
        "content": _keys([content for content in batch["hash"].to_pylist() if content]),
        "caption": np.array([_caption_key(caption) for caption in captions], np.uint64),
    }


def _keys(hashes: Sequence[str]) -> np.ndarray:
    """The first 64 bits of each hash: (hashes,) uint64."""
    return np.frombuffer(bytes.fromhex("".join(each[:16] for each in hashes)), ">u8").astype(np.uint64)


def _key(hash: str) -> np.uint64:
    return np.uint64(int(hash[:16], 16))


def _caption_key(caption: str | None) -> np.uint64:
    return _key(content_hash(caption.encode("utf-8", "replace"))) if caption else np.uint64(0)
