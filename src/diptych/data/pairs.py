"""Pairs: the one form of a data set, one row for each picture, and the splits that never leak a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.data.row_table import BLOCK, SCHEMA, Captions, TableBuilder
from diptych.errors import DataError
from diptych.images.decode import Picture, Slice, readable_text

SPLIT_ALIASES = {
    "dev": "val",
    "valid": "val",
    "validation": "val",
    "restval": "train",
    "training": "train",
    "eval": "val",
}


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
        gathered = TableBuilder()
        sink: BinaryIO | None = None
        for row in rows:
            image = row.image
            if isinstance(image, bytes) and row.image_id not in gathered:
                if blobs is None:
                    raise DataError(f"picture '{row.image_id}' comes as bytes; pass `blobs`, a file to keep them in")
                sink = sink or blobs()
                image = Slice(Path(sink.name), sink.tell(), sink.write(image))
            gathered.add(
                row.image_id, image, row.captions, readable_text(canonical_split(row.split)) if row.split else None
            )
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
        for block in self.table.select([column]).to_batches(BLOCK):
            yield from block.column(0).to_pylist()

    @property
    def image_ids(self) -> list[str]:
        return self.table.column("image_id").to_pylist()

    def flat_captions(self) -> tuple[list[str], np.ndarray]:
        """All captions in row order, and for each the index of its picture's row: (captions,) int64."""
        return list(self.captions()), np.repeat(np.arange(len(self)), self.caption_counts())

    def captions(self) -> Captions:
        """All captions in row order, without a Python string for each."""
        return Captions(self._lists().flatten())

    def caption_counts(self) -> np.ndarray:
        """How many captions each picture has: (pictures,) int64."""
        return np.asarray(self._lists().value_lengths().fill_null(0)).astype(np.int64)

    def _lists(self) -> pa.ListArray:
        """The column of captions as one array; what is one already is not copied."""
        column = self.table.column("captions")
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def select(self, indices: Iterable[int]) -> Pairs:
        """The rows at `indices`, in that order."""
        return Pairs(self.table.take(pa.array(list(indices), pa.int64())))

    def where(self, keep: Iterable[bool]) -> Pairs:
        """The rows for which `keep` is true."""
        kept = np.fromiter(keep, bool, len(self))
        return self if kept.all() else Pairs(self.table.filter(pa.array(kept)))

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
        chosen = self.where(split == wanted for split in self.values("split"))
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

        splits = (assign(*pair) for pair in zip(self.values("image_id"), self.values("split"), strict=True))
        at = self.table.schema.get_field_index("split")
        column = pa.array(splits, pa.string(), size=len(self))
        return Pairs(self.table.set_column(at, SCHEMA.field("split"), column))

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
        for path in pc.unique(self.table.column("path")):  # in order, as Arrow text
            try:
                stat = Path(path.as_py()).stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}\0".encode())
            except (OSError, ValueError):  # ValueError: a name with a NUL
                digest.update(b"missing\0")
        return digest.hexdigest()[:16]
