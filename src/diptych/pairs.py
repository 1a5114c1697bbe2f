"""Pairs: the one form of a data set, one row for each picture, and the splits that never leak a picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa

from diptych.errors import DataError
from diptych.images import Picture, Slice, legible

SPLIT_ALIASES = {
    "dev": "val",
    "valid": "val",
    "validation": "val",
    "restval": "train",
    "training": "train",
    "eval": "val",
}

_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),  # -1: the picture is the whole file at `path`
        "captions": pa.list_(pa.string()),
        "split": pa.string(),  # null: the source names none
    }
)
_BLOCK = 1024  # rows that are read before they become Arrow

_Values = dict[str, Any]  # a row by the names of the schema


@dataclass(frozen=True, slots=True)
class Row:
    """One picture and the captions that describe it."""

    image_id: str
    image: Picture
    captions: tuple[str, ...]
    split: str | None = None


def canonical_split(name: str) -> str:
    """The name by which diptych knows a split: `dev`, `valid` and `validation` are `val`, `restval` is `train`."""
    return SPLIT_ALIASES.get(name.lower(), name.lower())


def split_position(image_id: str) -> float:
    """Where an id falls in [0, 1): a hash of the id alone, so it never moves when rows are added."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) / 2**64


class _Gathered:
    """Rows on their way into a table, those of one id as one; only the last few thousand are held as Python objects."""

    def __init__(self) -> None:
        self._blocks: list[pa.Table] = []
        self._rows: list[_Values] = []  # those of the block that is not closed yet
        self._places: dict[str, int] = {}  # id -> row
        self._late: dict[int, _Values] = {}  # rows of closed blocks which captions were added to

    def __contains__(self, image_id: str) -> bool:
        return legible(image_id) in self._places

    def add(self, image_id: str, image: Picture, captions: Sequence[str], split: str | None) -> None:
        image_id = legible(image_id)
        if image_id in self._places:
            row = self._row(self._places[image_id])
            if split and row["split"] and split != row["split"]:
                raise DataError(
                    f"picture '{image_id}' stands in split '{row['split']}' and in '{split}'; "
                    "keep each picture in one split"
                )
            row["split"] = row["split"] or split
            row["captions"].extend(captions)
            return
        path, offset, size = (image.path, image.offset, image.size) if isinstance(image, Slice) else (image, 0, -1)
        # A name that no table can hold becomes that of no file, so that its picture is counted among the missing ones.
        values = (image_id, legible(os.fsdecode(path)), offset, size, list(captions), split)
        self._places[image_id] = len(self._places)
        self._rows.append(dict(zip(_SCHEMA.names, values, strict=True)))
        if len(self._rows) == 2 * _BLOCK:  # the later half stays open: captions of one picture stand together
            self._close(_BLOCK)

    def _row(self, at: int) -> _Values:
        """The row to change, whether its block is open or closed."""
        closed = len(self._blocks) * _BLOCK
        if at >= closed:
            return self._rows[at - closed]
        if at not in self._late:
            self._late[at] = self._blocks[at // _BLOCK].slice(at % _BLOCK, 1).to_pylist()[0]
        return self._late[at]

    def _close(self, count: int) -> None:
        self._blocks.append(pa.Table.from_pylist(self._rows[:count], schema=_SCHEMA))
        del self._rows[:count]

    def table(self) -> pa.Table:
        self._close(len(self._rows))
        for number in {at // _BLOCK for at in self._late}:
            rows = self._blocks[number].to_pylist()
            rows = [self._late.get(number * _BLOCK + at, row) for at, row in enumerate(rows)]
            self._blocks[number] = pa.Table.from_pylist(rows, schema=_SCHEMA)
        return pa.concat_tables(self._blocks).combine_chunks()


class Pairs(Sequence[Row]):
    """A data set of pictures with captions, held as an Arrow table: a row costs its text and a path, never its pixels.

    Build one with `read_pairs` or `Pairs.from_rows`. Selecting, splitting and indexing return views of the same table.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Row], blobs: Callable[[], BinaryIO] | None = None) -> Pairs:
        """Gather rows; rows that share an id become one row, their captions in order of appearance.

        A picture that comes as bytes is appended to the file that `blobs` opens, and the row keeps its place there,
        so that memory stays flat. Without `blobs`, bytes are refused.

        Raises:
            DataError: a picture is bytes and there is no `blobs`, or one id stands in two splits.
        """
        gathered = _Gathered()
        sink: BinaryIO | None = None
        for row in rows:
            image = row.image
            if isinstance(image, bytes) and row.image_id not in gathered:
                if blobs is None:
                    raise DataError(f"picture '{row.image_id}' comes as bytes; pass `blobs`, a file to keep them in")
                sink = sink or blobs()
                image = Slice(Path(sink.name), sink.tell(), sink.write(image))
            gathered.add(row.image_id, image, row.captions, legible(canonical_split(row.split)) if row.split else None)
        if sink is not None:
            sink.flush()
        return cls(gathered.table())

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Row | Pairs:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.table.slice(index % len(self), 1).to_pylist()[0]
        path = Path(row["path"])
        image: Picture = path if row["size"] < 0 else Slice(path, row["offset"], row["size"])
        return Row(row["image_id"], image, tuple(row["captions"]), row["split"])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def values(self, column: str) -> Iterator[Any]:
        """A column's values in row order, made Python objects some at a time."""
        for block in self.table.select([column]).to_batches(_BLOCK):
            yield from block.column(0).to_pylist()

    @property
    def image_ids(self) -> list[str]:
        return self.table.column("image_id").to_pylist()

    def flat_captions(self) -> tuple[list[str], np.ndarray]:
        """All captions in row order, and for each the index of its picture's row: (captions,) int64."""
        column = self.table.column("captions").combine_chunks()
        counts = np.asarray(column.value_lengths().fill_null(0))
        return column.flatten().to_pylist(), np.repeat(np.arange(len(self)), counts)

    def select(self, indices: Iterable[int]) -> Pairs:
        """The rows at `indices`, in that order."""
        return Pairs(self.table.take(pa.array(list(indices), pa.int64())))

    def where(self, keep: Iterable[bool]) -> Pairs:
        """The rows for which `keep` is true."""
        return Pairs(self.table.filter(pa.array(list(keep), pa.bool_())))

    @property
    def split_sizes(self) -> dict[str, int]:
        """Pictures in each named split; those without a split count under `""`."""
        sizes: dict[str, int] = {}
        for split in self.values("split"):
            sizes[split or ""] = sizes.get(split or "", 0) + 1
        return sizes

    def split(self, name: str) -> Pairs:
        """The pictures of one split (`all` for every picture).

        Raises:
            DataError: no picture stands in it; the message lists the splits that exist.
        """
        if name == "all":
            return self
        wanted = canonical_split(name)
        chosen = self.where(split == wanted for split in self.table.column("split").to_pylist())
        if not len(chosen):
            there = ", ".join(f"{key or '(none)'} ({count})" for key, count in self.split_sizes.items())
            raise DataError(
                f"no picture is in split '{name}'; the data set has: {there}. Use --split all for every one"
            )
        return chosen

    def with_splits(self, val: float = 0.1, test: float = 0.1, of: str | None = None) -> Pairs:
        """Assign splits by a hash of the image id: `test` and `val` are shares in [0, 1] of the pictures.

        With `of`, only pictures of that split are assigned anew (`of="train", test=0` holds a validation part out of
        the training pictures); without it, those that have no split. A picture's place depends on its id alone: adding
        rows never moves it.
        """

        def assign(image_id: str, split: str | None) -> str | None:
            if split != (canonical_split(of) if of else None):
                return split
            position = split_position(image_id)
            return "test" if position < test else "val" if position < test + val else "train"

        splits = [assign(*pair) for pair in zip(self.image_ids, self.table.column("split").to_pylist(), strict=True)]
        at = self.table.schema.get_field_index("split")
        return Pairs(self.table.set_column(at, _SCHEMA.field("split"), pa.array(splits, pa.string())))

    def with_val(self, share: float = 0.1) -> Pairs:
        """The data set with a validation split: its own, or `share` of the training pictures by the hash of their ids.

        Where no picture is in a split, all are training pictures. Training and measuring both take it from here.
        """
        sizes = self.split_sizes
        return self if "val" in sizes else self.with_splits(share, test=0, of="train" if "train" in sizes else None)

    def fingerprint(self) -> str:
        """A hash of the ids and of where the pictures lie (path, size, modification time): keys caches of vectors."""
        digest = hashlib.sha256()
        for name in ("image_id", "path", "offset", "size"):
            for value in self.values(name):
                digest.update(f"{value}\0".encode("utf-8", "surrogatepass"))
        for path in dict.fromkeys(self.values("path")):
            try:
                stat = Path(path).stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}\0".encode())
            except OSError:
                digest.update(b"missing\0")
        return digest.hexdigest()[:16]
