"""Storage of an index: a folder with a LanceDB table of images and a metadata file that names the model."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.errors import DataError, IndexMissing, ModelError, NextStep, require
from diptych.images.paths import from_text, to_text
from diptych.runtime.atomic import storing
from diptych.search.layout import (
    HIDDEN,
    METADATA_FILE,
    TABLE,
    TABLE_FOLDER,
    check_name,
    check_own_files,
    damaged,
    discard,
    first_line,
    guarded,
    has_rows_only,
    is_index,
    make_folder,
    no_metadata,
    refuse_links,
)
from diptych.search.lock import writing
from diptych.search.metadata import FORMAT, MAX_VOLUMES, read_metadata, update_metadata, write_json
from diptych.search.volumes import Recorded

ANN_ROWS = 50_000  # smaller tables are searched exactly
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
        made_for = metadata.get("root")
        # The former path of a library that was moved together with its index, until `rebase` has written the new one.
        self.moved_from: str | None = made_for if self.root is not None and made_for != str(self.root) else None

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open the index in `folder`.

        Raises:
            DataError: there is none, it is damaged, it contains links, or a newer diptych made it.
        """
        folder = Path(folder)
        metadata = read_metadata(folder)
        refuse_links(folder)
        return cls(folder, metadata)

    @classmethod
    def create(cls, folder: str | Path, model_identity: ModelIdentity, root: str | None = None) -> Store:
        """Make an empty index in `folder`, or open the one that is there if the same model made it.

        Raises:
            DataError: `folder` holds something else.
            IndexDamaged: it holds the rows of an index, but not its metadata.
            ModelError: another model made the index that is there.
        """
        folder = Path(folder)
        if not (folder / METADATA_FILE).exists():
            check_name(folder)
            if has_rows_only(folder):
                raise no_metadata(folder)
            check_own_files(folder)  # what remains of an index without its metadata is used again
            make_folder(folder)
            refuse_links(folder)
            is_new = not (folder / TABLE_FOLDER).exists()  # the volumes of an earlier index's rows are not known
            with storing(folder, "the next run starts the index again"), guarded(folder):
                _make_table(folder, model_identity.dim)
            root = root or (str(folder.parent) if folder.name == HIDDEN else None)
            metadata = {
                **{"format": FORMAT, "id": secrets.token_hex(8), "model": asdict(model_identity), "root": root},
                **{"volumes": {} if is_new else None, "exclude": {}},
            }
            write_json(folder / METADATA_FILE, metadata)  # last: an index with metadata is complete
        store = cls.open(folder)
        store.identity.check(model_identity, folder)
        if not cls.is_whole(folder):  # somebody removed only the table
            _make_table(folder, model_identity.dim)
        return store

    is_index = staticmethod(is_index)

    @staticmethod
    def is_whole(folder: Path) -> bool:
        """Whether a folder is an index that still has its table, which somebody may remove while it is open."""
        return is_index(folder) and (folder / TABLE_FOLDER).is_dir()

    @cached_property
    def table(self) -> Any:
        """The LanceDB table; each read sees the newest version, whichever process wrote it.

        Raises:
            DataError: it cannot be opened, or has other columns than `schema`.
        """
        try:
            table = _connect(self.folder).open_table(TABLE)
            columns = {field.name: field.type for field in table.schema}
        except (OSError, ValueError, RuntimeError) as error:
            check_name(self.folder)
            raise damaged(self.folder, first_line(error)) from error
        if columns != {field.name: field.type for field in schema(self.identity.dim)}:
            raise DataError(
                f"the table in '{self.folder}' has other columns than an index of {self.identity.dim} dimensions; "
                "use the diptych that made it, or index the images again in a new folder",
                steps=[NextStep("name that folder", "index")],
            )
        return table

    def __len__(self) -> int:
        """How many rows the table has."""
        with guarded(self.folder):
            return self.table.count_rows()

    @contextmanager
    def lock(self, wait: float | None = None, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the write lock while the context lasts; see `lock.writing`.

        Raises:
            IndexBusy: another process still writes after `wait` seconds.
            IndexDamaged: files of the index are missing or damaged.
            IndexMissing: the index was removed, or its drive is off.
            StorageError: the disk is full or the folder is read-only; what was added before is kept.
        """
        if not is_index(self.folder):  # a lock would make its folder again, where a drive is to be mounted
            raise IndexMissing(f"the index in '{self.folder}' no longer exists; is its drive mounted?")
        storage = storing(self.folder, "what was added before is kept")
        with storage, guarded(self.folder), writing(self.folder, wait, on_wait):
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
        with guarded(self.folder):
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

    def finish_additions(self) -> None:
        """Finish a run of additions: build the ANN index if the table is large enough, and compact its files."""
        rows = len(self)
        if rows >= ANN_ROWS and rows >= (read_metadata(self.folder).get("ann_rows") or 0) * _RETRAIN_GROWTH:
            self.build_ann()
        self.compact_if_scattered()

    @property
    def volumes(self) -> Recorded | None:
        """The volumes on which its images were seen; None if an older version added some without recording that."""
        recorded: Recorded | None = read_metadata(self.folder).get("volumes")
        return recorded

    def record_volumes(self, volumes: Mapping[str, Sequence[str]], *, complete: bool) -> None:
        """Add volumes, with the identities of their file systems where known, to those that are recorded.

        They replace what was recorded if they are `complete`: every image of the index was seen on them now.
        """
        before = self.volumes
        after = {} if complete else {volume: list(identities) for volume, identities in (before or {}).items()}
        for volume, identities in sorted(volumes.items()):
            known = after.setdefault(volume, [])
            known.extend(identity for identity in identities if identity not in known)
        if (before is not None or complete) and after != before:
            update_metadata(self.folder, volumes=after if len(after) <= MAX_VOLUMES else None)

    @property
    def exclusions(self) -> dict[str, tuple[str, ...]]:
        """The patterns of files to leave out, by the folder to which they are relative."""
        recorded = read_metadata(self.folder).get("exclude") or {}
        return {str(from_text(root)): tuple(patterns) for root, patterns in recorded.items()}

    def record_exclusions(self, patterns: Mapping[str, Sequence[str]]) -> None:
        """Replace the patterns of files to leave out.

        Raises:
            ConfigError: they are longer than an index's metadata may be.
        """
        recorded = {to_text(root): list(given) for root, given in patterns.items() if given}
        if patterns != self.exclusions:
            update_metadata(self.folder, exclude=recorded)

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
        update_metadata(self.folder, ann_rows=rows, ann_partitions=partitions)


def discard_index(folder: Path) -> dict[str, tuple[str, ...]]:
    """Remove an index, damaged or not, and return its exclusions, as far as they can be read.

    Raises:
        DataError: the folder holds other files than those of an index.
        IndexBusy: another process writes to it.
    """
    if not folder.is_dir():
        return {}
    refuse_links(folder)
    exclusions: dict[str, tuple[str, ...]] = {}
    with suppress(DataError):
        exclusions = Store.open(folder).exclusions
    with storing(folder), guarded(folder), writing(folder, wait=0):
        discard(folder)
    return exclusions


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
    _connect(folder).create_table(TABLE, schema=schema(dim), exist_ok=True)


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # read once, at import; hides warnings about empty clusters
    return require("lancedb", extra="search").connect(str(folder), read_consistency_interval=timedelta(0))
