"""Storage of an index: a folder with a LanceDB table of images and a metadata file that names the model."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.errors import DataError, ModelError, NextStep, require
from diptych.runtime.atomic import is_temporary, storing
from diptych.search.lock import HOLDER, LOCK, writing
from diptych.search.metadata import FORMAT, METADATA_FILE, first_line, read_metadata, write_json

ANN_ROWS = 50_000  # smaller tables are searched exactly
HIDDEN = ".diptych"  # the index of a library, inside it
SKIPPED = "skipped."  # prefix of the list of skipped files
_TABLE = "pictures"
_is_junction: Callable[[str], bool] = getattr(os.path, "isjunction", lambda path: False)  # Windows, Python 3.12 on
_SMALL_FILES = 32  # with more files than this the table is compacted
_ROWS_PER_FILE = 4_096  # in larger tables, or a million rows would be rewritten every 32 batches
_UNINDEXED_ROWS = 10_000  # with more rows than this outside the ANN index, searches slow down
_KEEP_VERSIONS = timedelta(hours=1)  # a reader may still be using an older version
_RETRAIN_GROWTH = 4  # growth of the table after which its partitions are trained again


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that made the embeddings of an index.

    `hash` is `DualEncoder.fingerprint()` (of weights and preprocessing); None if the embeddings were made elsewhere and
    only the model's name is known. `image_size` is the side of the image tower's input in pixels, if known.
    """

    name: str
    hash: str | None
    dim: int
    image_size: int | None = None

    def check(self, other: ModelIdentity, folder: Path) -> None:
        """Check that `other` is this model, which made the index in `folder`.

        Raises:
            ModelError: it is another model, so that their embeddings cannot be compared.
        """
        same = self.dim == other.dim if None in (self.hash, other.hash) else self.hash == other.hash
        if not same:
            raise ModelError(
                f"'{folder}' was made by the model '{self.name}' ({self.hash or 'elsewhere'}, {self.dim} dimensions) "
                f"and cannot be used with '{other.name}' ({other.hash or 'elsewhere'}, {other.dim} dimensions); use "
                "the model that made it, or make another index",
                steps=[NextStep("name the folder of that index", "index")],
            )


def schema(dim: int) -> pa.Schema:
    """The columns of the table. float16 takes half the disk, memory and time of float32 without a measurable loss."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),  # path_id(path)
            pa.field("hash", pa.string(), nullable=False),  # of the bytes; "" where only an embedding is known
            pa.field("path", pa.string(), nullable=False),  # paths.to_text
            pa.field("folder", pa.string(), nullable=False),  # the path's parent
            pa.field("size", pa.int64(), nullable=False),  # -1 where only an embedding is known
            pa.field("mtime", pa.int64(), nullable=False),  # nanoseconds
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("taken", pa.timestamp("s")),  # local time of the camera
            pa.field("camera", pa.string()),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("caption", pa.string()),  # several are joined by line breaks
            pa.field("phash", pa.uint64()),
            pa.field("vector", pa.list_(pa.float16(), dim), nullable=False),  # unit length
        ]
    )


class Store:
    """An index folder. Reading needs no lock; writers hold `lock()`."""

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = ModelIdentity(**metadata["model"])
        self.id: str = metadata.get("id") or ""  # random, drawn when the index was made; "" in older indexes
        self.root = folder.parent if folder.name == HIDDEN else None  # the library that the index was made for

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open the index in `folder`.

        Raises:
            DataError: there is none, it is damaged, it contains links, or a newer diptych made it.
        """
        folder = Path(folder)
        metadata = read_metadata(folder)
        _refuse_links(folder)
        return cls(folder, metadata)

    @classmethod
    def create(cls, folder: str | Path, model_identity: ModelIdentity, root: str | None = None) -> Store:
        """Make an empty index in `folder`, or open the one that is there if the same model made it.

        Raises:
            DataError: `folder` holds something else.
            ModelError: another model made the index that is there.
        """
        folder = Path(folder)
        if not (folder / METADATA_FILE).exists():
            ours = (
                METADATA_FILE,
                LOCK,
                HOLDER,
                SKIPPED,
                f"{_TABLE}.lance",
            )  # what remains of an index without its metadata
            if folder.exists() and any(not (e.name.startswith(ours) or is_temporary(e)) for e in folder.iterdir()):
                raise DataError(f"'{folder}' holds other files and no index; name a new folder")
            _make(folder)
            _refuse_links(folder)
            with storing(folder, "it is started again"):
                _make_table(folder, model_identity.dim)
            metadata = {"format": FORMAT, "id": secrets.token_hex(8), "model": asdict(model_identity), "root": root}
            write_json(folder / METADATA_FILE, metadata)  # last: an index with metadata is complete
        store = cls.open(folder)
        store.identity.check(model_identity, folder)
        if not cls.is_whole(folder):  # somebody removed only the table
            _make_table(folder, model_identity.dim)
        return store

    @staticmethod
    def is_index(folder: Path) -> bool:
        """Whether a folder is an index."""
        return (folder / METADATA_FILE).is_file()

    @staticmethod
    def is_whole(folder: Path) -> bool:
        """Whether a folder is an index that still has its table, which somebody may remove while it is open."""
        return Store.is_index(folder) and (folder / f"{_TABLE}.lance").is_dir()

    @cached_property
    def table(self) -> Any:
        """The LanceDB table; each read sees the newest version, whichever process wrote it.

        Raises:
            DataError: it cannot be opened, or has other columns than `schema`.
        """
        try:
            table = _connect(self.folder).open_table(_TABLE)
            columns = {field.name: field.type for field in table.schema}
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"'{self.folder}' cannot be opened ({first_line(error)}); index the pictures again"
            ) from error
        if columns != {field.name: field.type for field in schema(self.identity.dim)}:
            raise DataError(
                f"the table in '{self.folder}' has other columns than an index of {self.identity.dim} dimensions; "
                "index the pictures again in a new folder"
            )
        return table

    def __len__(self) -> int:
        """How many rows the table has."""
        return self.table.count_rows()

    @contextmanager
    def lock(self, wait: float | None = None, on_wait: Callable[[str], None] = lambda message: None) -> Iterator[None]:
        """Hold the write lock while the context lasts; see `lock.writing`.

        Raises:
            IndexBusy: another process still writes after `wait` seconds.
            StorageError: the disk is full; what was added before is kept.
        """
        with storing(self.folder, "what was added before is kept"), writing(self.folder, wait, on_wait):
            yield

    # writing, under the lock

    def add(self, batch: pa.Table) -> None:
        """Append rows whose ids are new, in one transaction that is on disk when this returns."""
        self.table.add(batch.cast(schema(self.identity.dim)))

    def replace(self, batch: pa.Table) -> None:
        """Replace the rows with the same ids, in one transaction."""
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(batch.cast(schema(self.identity.dim)))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the rows with these ids."""
        for start in range(0, len(ids), 1_000):
            self.table.delete(in_list("id", ids[start : start + 1_000]))

    def rows(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these ids, in no particular order; all columns unless `columns` names some."""
        query = self.table.search().where(in_list("id", ids)).limit(len(ids))
        return (query.select(list(columns)) if columns else query).to_arrow()

    def compact(self) -> None:
        """Merge small files, drop old versions, and add new rows to the ANN index."""
        # Nobody else writes under the lock, so files that no version names were left by a killed writer.
        self.table.optimize(cleanup_older_than=_KEEP_VERSIONS, delete_unverified=True)

    def compact_if_scattered(self) -> None:
        """Compact if many small additions have accumulated, so that searches stay fast and compaction stays rare."""
        stats = self.table.stats()
        files, rows = stats["fragment_stats"]["num_small_fragments"], stats["num_rows"]
        if files > max(_SMALL_FILES, rows // _ROWS_PER_FILE) or self._unindexed > max(_UNINDEXED_ROWS, rows // 16):
            self.compact()

    def configure_tokenizer(self) -> None:
        """Finish a run of additions: build the ANN index if the table is large enough, and compact its files."""
        rows = len(self)
        if rows >= ANN_ROWS and rows >= (read_metadata(self.folder).get("ann_rows") or 0) * _RETRAIN_GROWTH:
            self.build_ann()
        self.compact_if_scattered()

    @property
    def partitions(self) -> int:
        """The number of partitions of the ANN index; 0 without one."""
        return read_metadata(self.folder).get("ann_partitions") or 0

    @property
    def _unindexed(self) -> int:
        """The number of rows that the ANN index does not cover yet; 0 without one."""
        return sum(index.num_unindexed_rows or 0 for index in self.table.list_indices() if "vector" in index.columns)

    def build_ann(self) -> None:
        """Build or rebuild the ANN index: IVF with 8-bit scalar quantization and sqrt(rows) partitions.

        Its distance is the cosine. With dot products the long centres of tight clusters attract all rows: a tenth of
        the partitions took them all, and a query took forty times as long.
        """
        from lancedb.index import IvfSq

        rows = len(self)
        partitions = max(1, math.isqrt(rows))
        config = IvfSq("cosine", num_partitions=partitions, max_iterations=10, sample_rate=64)
        self.table.create_index("vector", config=config)
        write_json(
            self.folder / METADATA_FILE, {**read_metadata(self.folder), "ann_rows": rows, "ann_partitions": partitions}
        )


def embedding_column(embeddings: NDArray[np.floating]) -> pa.FixedSizeListArray:
    """Embeddings (rows, dim) as the table's column `vector`, in float16."""
    flat = np.ascontiguousarray(embeddings, np.float16).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), embeddings.shape[1])


def in_list(column: str, values: Sequence[str]) -> str:
    """The SQL condition that `column` is one of `values`, quoted."""
    return f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"


def quoted(text: str) -> str:
    """A text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _make_table(folder: Path, dim: int) -> None:
    _connect(folder).create_table(_TABLE, schema=schema(dim), exist_ok=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be made ({error.strerror}); store the index in another folder",
            steps=[NextStep("name that folder", "index")],
        ) from error


def _refuse_links(folder: Path) -> None:
    """Refuse an index that contains links: writing through them, even a lock, would overwrite files elsewhere.

    Raises:
        DataError: there is one.
    """
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink() or _is_junction(entry.path):
                        raise DataError(f"'{entry.path}' is a link, and an index contains none; remove the link")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # removed by a writer in the meantime
            continue
        except OSError as error:
            raise DataError(f"'{folder}' cannot be listed ({error.strerror}); check its permissions") from error


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # read once, at import; hides warnings about empty clusters
    return require("lancedb", extra="search").connect(str(folder), read_consistency_interval=timedelta(0))
