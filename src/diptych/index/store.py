"""The folder of an index: a LanceDB table of pictures, the model that made its vectors, the lock of its one writer."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.atomic import is_temporary, storing, write_text
from diptych.errors import DataError, ModelError, require
from diptych.index.lock import HOLDER, LOCK, writing

ANN_ROWS = 50_000  # below this many rows a search compares with all of them
_FORMAT = 1
_CARD, _TABLE = "index.json", "pictures"
_SMALL_FILES = 32  # so many files of a batch each ask for a compaction
_ROWS_PER_FILE = 4_096  # and more in larger tables, or a million rows would be written again every 32 batches
_UNINDEXED_ROWS = 10_000  # more than so many that the ANN index does not hold yet slow a search down
_KEEP_VERSIONS = timedelta(hours=1)  # a reader may still be in the middle of an older version
_RETRAIN_GROWTH = 4  # a table so many times larger than when its partitions were made has them made anew


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made the vectors of an index.

    `hash` is `DualEncoder.identity()` (weights and preprocessing); None where the vectors were made elsewhere and the
    model is known by name alone. `image_size` is the side in pixels of what the image tower sees, if known.
    """

    name: str
    hash: str | None
    dim: int
    image_size: int | None = None

    def check(self, other: ModelIdentity, folder: Path) -> None:
        """Refuse another model than this one, which made the index in `folder`.

        Raises:
            ModelError: the vectors of the two cannot be compared.
        """
        same = self.dim == other.dim if None in (self.hash, other.hash) else self.hash == other.hash
        if not same:
            raise ModelError(
                f"'{folder}' was made by the model '{self.name}' ({self.hash or 'elsewhere'}, {self.dim} dimensions) "
                f"and cannot be used with '{other.name}' ({other.hash or 'elsewhere'}, {other.dim} dimensions); use "
                "the model that made it, or make another index with --index FOLDER"
            )


def schema(dim: int) -> pa.Schema:
    """The columns of the table; float16 halves disk, memory and time of float32 and loses nothing a search can see."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),  # path_id(path)
            pa.field("hash", pa.string(), nullable=False),  # of the bytes; "" where only a vector is known
            pa.field("path", pa.string(), nullable=False),  # paths.to_text
            pa.field("folder", pa.string(), nullable=False),  # the path's parent
            pa.field("size", pa.int64(), nullable=False),  # -1 where only a vector is known
            pa.field("mtime", pa.int64(), nullable=False),  # nanoseconds
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("taken", pa.timestamp("s")),  # the camera's clock
            pa.field("camera", pa.string()),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("caption", pa.string()),  # several are joined by newlines
            pa.field("phash", pa.uint64()),
            pa.field("vector", pa.list_(pa.float16(), dim), nullable=False),  # unit length
        ]
    )


class Store:
    """One index folder. Readers need nothing; whoever writes holds `lock()`."""

    def __init__(self, folder: Path, card: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = _identity(self.folder / _CARD, card)
        self.root = Path(card["root"]) if card.get("root") else None  # the library that the index was made for

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The index in `folder`.

        Raises:
            DataError: there is none, or a newer diptych made it.
        """
        return cls(Path(folder), _read_card(Path(folder)))

    @classmethod
    def create(cls, folder: str | Path, model_identity: ModelIdentity, root: str | None = None) -> Store:
        """A new, empty index in `folder`, or the one that is there if the same model made it.

        Raises:
            DataError: `folder` holds something else.
            ModelError: another model made the index that is there.
        """
        folder = Path(folder)
        if not (folder / _CARD).exists():
            ours = (LOCK, HOLDER, f"{_TABLE}.lance")  # left by a killed process
            known = (*ours, _CARD)
            if folder.exists() and any(not (e.name.startswith(known) or is_temporary(e)) for e in folder.iterdir()):
                raise DataError(f"'{folder}' holds other files and no index; name a new folder")
            _make(folder)
            with storing(folder, "it is begun anew"):
                _connect(folder).create_table(_TABLE, schema=schema(model_identity.dim), exist_ok=True)
            card = {"format": _FORMAT, "model": asdict(model_identity), "root": root}
            _write_json(folder / _CARD, card)  # last: an index whose card is there is whole
        store = cls.open(folder)
        store.identity.check(model_identity, folder)
        return store

    @staticmethod
    def is_one(folder: Path) -> bool:
        return (folder / _CARD).is_file()

    @cached_property
    def table(self) -> Any:
        """The LanceDB table; each read sees the newest version, whoever wrote it."""
        try:
            return _connect(self.folder).open_table(_TABLE)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"'{self.folder}' cannot be opened ({_first_line(error)}); index the pictures again"
            ) from error

    def __len__(self) -> int:
        return self.table.count_rows()

    @contextmanager
    def lock(self, wait: float | None = None, on_wait: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """Be the one writer while the context lasts; see `lock.writing`.

        Raises:
            IndexBusy: another process still writes after `wait` seconds.
            StorageError: the disk is full; what was added before is kept.
        """
        with storing(self.folder, "what was added before is kept"), writing(self.folder, wait, on_wait):
            yield

    # writing, under the lock

    def add(self, batch: pa.Table) -> None:
        """Append rows whose ids are new, in one transaction. On disk when this returns."""
        self.table.add(batch.cast(schema(self.identity.dim)))

    def replace(self, batch: pa.Table) -> None:
        """Put rows in the place of those with their ids, in one transaction."""
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(batch.cast(schema(self.identity.dim)))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the rows with these ids."""
        for start in range(0, len(ids), 1_000):
            self.table.delete(in_list("id", ids[start : start + 1_000]))

    def rows(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these ids, in no order."""
        query = self.table.search().where(in_list("id", ids)).limit(len(ids))
        return (query.select(list(columns)) if columns else query).to_arrow()

    def compact(self) -> None:
        """Join small files, drop old versions, and fold rows that were added later into the ANN index."""
        # Under the lock nobody else writes, so what no version names is what a killed writer left.
        self.table.optimize(cleanup_older_than=_KEEP_VERSIONS, delete_unverified=True)

    def compact_if_scattered(self) -> None:
        """Compact when many small additions have piled up: often enough to stay fast, too seldom to cost much."""
        found = self.table.stats()
        files, rows = found["fragment_stats"]["num_small_fragments"], found["num_rows"]
        if files > max(_SMALL_FILES, rows // _ROWS_PER_FILE) or self._unindexed > max(_UNINDEXED_ROWS, rows // 16):
            self.compact()

    def settle(self) -> None:
        """End a run of additions: an ANN index where the table has grown into one, and compact files."""
        rows = len(self)
        if rows >= ANN_ROWS and rows >= _read_card(self.folder).get("ann_rows", 0) * _RETRAIN_GROWTH:
            self.build_ann()
        self.compact_if_scattered()

    @property
    def partitions(self) -> int:
        """How many partitions the ANN index has, whoever built it; 0 without one."""
        return _read_card(self.folder).get("ann_partitions", 0)

    @property
    def _unindexed(self) -> int:
        """How many rows were added since the ANN index was last brought up to date; 0 without one."""
        return sum(index.num_unindexed_rows or 0 for index in self.table.list_indices() if "vector" in index.columns)

    def build_ann(self) -> None:
        """Build the ANN index, anew if there is one: vectors of 8-bit numbers, as many partitions as each has rows.

        By cosine, not by dot product: the centre of a tight cluster is longer than that of a loose one, so that by dot
        product a tenth of the partitions took all the rows, and a query took forty times as long.
        """
        from lancedb.index import IvfSq

        rows = len(self)
        partitions = max(1, math.isqrt(rows))
        config = IvfSq("cosine", num_partitions=partitions, max_iterations=10, sample_rate=64)
        self.table.create_index("vector", config=config)
        _write_json(self.folder / _CARD, {**_read_card(self.folder), "ann_rows": rows, "ann_partitions": partitions})


def vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors (rows, dim) as the table's column, float16."""
    flat = np.ascontiguousarray(vectors, np.float16).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def in_list(column: str, values: Sequence[str]) -> str:
    """The SQL condition that `column` is one of `values`, quoted."""
    return f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be made ({error.strerror}); put the index elsewhere with --index FOLDER"
        ) from error


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / _CARD).read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"'{folder}' holds no index; make one with `diptych index FOLDER`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"'{folder / _CARD}' cannot be read ({error}); index the pictures again") from error
    if card.get("format") != _FORMAT:
        raise DataError(f"'{folder}' has index format {card.get('format')}; this diptych reads {_FORMAT}: update it")
    return card


def _identity(file: Path, card: dict[str, Any]) -> ModelIdentity:
    """The model that an index's card names; its hash names files of the cache folder, so it is held to its form."""
    try:
        identity = ModelIdentity(**card["model"])
        if identity.hash is None or re.fullmatch("[0-9a-f]+", identity.hash):
            return identity
    except (LookupError, TypeError):
        pass
    raise DataError(f"'{file}' does not say which model made the index; index the pictures again")


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # read once, at its import: warnings of empty clusters are no news
    return require("lancedb", extra="search").connect(str(folder), read_consistency_interval=timedelta(0))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
