"""Pairs: an image-text data set with one row per image, and splits that keep each image on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.data.reading_notes import ReadingNotes
from diptych.data.row_table import BLOCK, SCHEMA, Captions, TableBuilder
from diptych.errors import DataError, NextStep
from diptych.images.decode import ImageSource, Slice, readable_text

_NOTES = b"diptych.notes"  # key in the metadata of the table's schema

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
    """One image and its captions.

    `source_id` is the id of the image in its source where that is not its name: the number in COCO's annotations, or
    the id column of a table.
    """

    image_id: str
    image: ImageSource
    captions: tuple[str, ...]
    split: str | None = None
    source_id: str | None = None


def canonical_split(name: str) -> str:
    """The canonical name of a split: `dev`, `valid` and `validation` become `val`, `restval` becomes `train`."""
    return SPLIT_ALIASES.get(name.lower(), name.lower())


def split_position(image_id: str) -> float:
    """The position of an id in [0, 1): a hash of the id alone, so it does not change when rows are added."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) / 2**64


def _part_sizes(values: NDArray[np.float64], val: float, test: float) -> tuple[int, int]:
    """The number of test and validation images: those below the thresholds, but no part that can be filled is empty."""
    tests = int((values < test).sum())
    vals = int((values < test + val).sum()) - tests
    count, trains = len(values), int(test + val < 1)
    least_val = int(val > 0 and count > trains)
    least_test = int(test > 0 and count > trains + least_val)
    tests, vals = max(tests, least_test), max(vals, least_val)
    while tests + vals > count - trains and (tests > least_test or vals > least_val):
        tests, vals = (tests - 1, vals) if tests - least_test > vals - least_val else (tests, vals - 1)
    return tests, vals


class Pairs(Sequence[Row]):
    """An image-text data set, stored as an Arrow table of captions and image paths; pixels are not held in memory.

    Build one with `read_pairs` or `Pairs.from_rows`. Selecting and splitting return new `Pairs`; an index returns a
    `Row`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Row],
        blobs: Callable[[], BinaryIO] | None = None,
        notes: ReadingNotes | None = None,
    ) -> Pairs:
        """Build a data set from rows. Rows with the same id are merged, their captions in order of appearance.

        An image passed as bytes is appended to the file that `blobs` opens, and the row stores its offset there, so
        memory use stays constant. `notes` are those that the reader of the rows takes; they stay with the data set.

        Raises:
            DataError: an image is bytes and `blobs` is None, or an id occurs in two splits.
        """
        notes = notes if notes is not None else ReadingNotes()
        builder = TableBuilder(notes)
        sink: BinaryIO | None = None
        for row in rows:
            image = row.image
            if isinstance(image, bytes) and row.image_id not in builder:
                if blobs is None:
                    raise DataError(f"image '{row.image_id}' is passed as bytes; pass `blobs`, a file to store it in")
                sink = sink or blobs()
                image = Slice(Path(sink.name), sink.tell(), sink.write(image))
            split = readable_text(canonical_split(row.split)) if row.split else None
            builder.add(row.image_id, image, row.captions, split, row.source_id)
        if sink is not None:
            sink.flush()
        return cls(builder.table()).with_notes(notes)

    @property
    def notes(self) -> ReadingNotes:
        """What was noticed while the data set was read: names that were left over, repeated or guessed.

        They are stored in the table's metadata, and describe the whole data set also after a selection of rows.
        """
        stored = (self.table.schema.metadata or {}).get(_NOTES)
        return ReadingNotes.from_json(stored) if stored else ReadingNotes()

    def with_notes(self, notes: ReadingNotes) -> Pairs:
        """The same rows with these notes."""
        return Pairs(self.table.replace_schema_metadata({_NOTES: notes.to_json()} if notes.counts else None))

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
        image: ImageSource = path if row["size"] < 0 else Slice(path, row["offset"], row["size"])
        return Row(row["image_id"], image, tuple(row["captions"]), row["split"], row["source_id"])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def values(self, column: str) -> Iterator[Any]:
        """The values of a column in row order, converted to Python objects block by block."""
        for block in self.table.select([column]).to_batches(BLOCK):
            yield from block.column(0).to_pylist()

    @property
    def image_ids(self) -> list[str]:
        """The image ids in row order."""
        return self.table.column("image_id").to_pylist()

    @property
    def source_ids(self) -> dict[str, str]:
        """The image of each id that the source gives its images: source id -> image id.

        The aliases for `diptych.data.joins.match_ids`: predictions for COCO name images by these numbers.
        """
        pairs = zip(self.values("source_id"), self.values("image_id"), strict=True)
        return {source_id: image_id for source_id, image_id in pairs if source_id is not None}

    def flat_captions(self) -> tuple[list[str], NDArray[np.int64]]:
        """All captions in row order, and the row of each caption's image: (captions,) int64."""
        return list(self.captions()), np.repeat(np.arange(len(self)), self.caption_counts())

    def captions(self) -> Captions:
        """All captions in row order, as a sequence that creates Python strings on access."""
        return Captions(self._lists().flatten())

    def caption_counts(self) -> NDArray[np.int64]:
        """The number of captions of each image: (images,) int64."""
        return np.asarray(self._lists().value_lengths().fill_null(0)).astype(np.int64)

    def _lists(self) -> pa.ListArray:
        """The caption column as one array; a column with a single chunk is not copied."""
        column = self.table.column("captions")
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def select(self, indices: Iterable[int]) -> Pairs:
        """The rows at `indices`, in that order."""
        return Pairs(self.table.take(pa.array(list(indices), pa.int64())))

    def where(self, keep: Iterable[bool]) -> Pairs:
        """The rows for which `keep` is true."""
        kept = np.fromiter(keep, bool, len(self))
        return self if kept.all() else Pairs(self.table.filter(pa.array(kept)))

    def with_column(self, name: str, values: Iterable[object]) -> Pairs:
        """The data set with other values, one for each row, in a column of its table."""
        index, field = self.table.schema.get_field_index(name), SCHEMA.field(name)
        return Pairs(self.table.set_column(index, field, pa.array(values, field.type, size=len(self))))

    @property
    def split_sizes(self) -> dict[str, int]:
        """The number of images in each split; images without a split are counted under `""`."""
        sizes: dict[str, int] = {}
        for split in self.values("split"):
            sizes[split or ""] = sizes.get(split or "", 0) + 1
        return sizes

    def split(self, name: str) -> Pairs:
        """The images of one split; `all` selects every image.

        Raises:
            DataError: the split is empty; the message lists the existing splits.
        """
        if name == "all":
            return self
        wanted = canonical_split(name)
        chosen = self.where(split == wanted for split in self.values("split"))
        if not len(chosen):
            existing = ", ".join(f"{key or '(none)'} ({count})" for key, count in self.split_sizes.items())
            few = "; a validation split takes at least two images" if wanted == "val" and len(self) < 2 else ""
            raise DataError(
                f"no image is in split '{name}'; the data set has: {existing}{few}",
                steps=[NextStep("select all images", "split", "all")],
            )
        return chosen

    def with_splits(self, val: float = 0.1, test: float = 0.1, of: str | None = None) -> Pairs:
        """Assign splits by a hash of the image id; `test` and `val` are fractions of the images, in [0, 1].

        With `of`, the images of that split are reassigned (`of="train", test=0` holds out a validation split from the
        training images); without it, the images that have no split. The result depends on the id alone, so adding rows
        does not change the split of existing images.

        Small sets are the exception. No part with a fraction above 0 stays empty, as long as there are images for it:
        with two images, one is for training and one for validation; from three on, one for the test. An empty part gets
        the image whose hash is nearest, which may leave it again when rows are added.
        """
        wanted = canonical_split(of) if of else None
        ids_and_splits = zip(self.values("image_id"), self.values("split"), strict=True)
        positions = np.fromiter(
            (split_position(image_id) if split == wanted else np.nan for image_id, split in ids_and_splits),
            np.float64,
            len(self),
        )
        rows = np.flatnonzero(~np.isnan(positions))
        positions = positions[rows]
        tests, vals = _part_sizes(positions, val, test)
        rows = rows[np.argsort(positions, kind="stable")]
        parts = np.full(len(self), -1, np.int8)  # position in `names`; -1 for rows that keep their split
        parts[rows], parts[rows[: tests + vals]], parts[rows[:tests]] = 2, 1, 0
        names = ("test", "val", "train")
        splits = zip(self.values("split"), parts.tolist(), strict=True)
        return self.with_column("split", (split if part < 0 else names[part] for split, part in splits))

    def with_val(self, share: float = 0.1) -> Pairs:
        """The data set with a validation split: its own, or a fraction `share` of the training images.

        Without any splits, all images count as training images. Training and evaluation both use this method, so they
        agree on the held-out images.
        """
        sizes = self.split_sizes
        return self if "val" in sizes else self.with_splits(share, test=0, of="train" if "train" in sizes else None)

    def fingerprint(self) -> str:
        """A hash of ids and image files (path, size, modification time); the key of cached embeddings."""
        digest = hashlib.sha256()
        for name in ("image_id", "path", "offset", "size"):
            for value in self.values(name):
                digest.update(f"{value}\0".encode("utf-8", "surrogatepass"))
        for path in pc.unique(self.table.column("path")):  # in row order, kept as Arrow strings
            try:
                stat = Path(path.as_py()).stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}\0".encode())
            except (OSError, ValueError):  # ValueError: a path that contains NUL
                digest.update(b"missing\0")
        return digest.hexdigest()[:16]
