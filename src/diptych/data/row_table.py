"""The Arrow table behind `Pairs`: its schema, a builder that merges rows by id, and lazy access to the captions."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypedDict, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.decode import ImageSource, Slice, describe, readable_text

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),  # -1: the image is the whole file at `path`
        "captions": pa.list_(pa.string()),
        "split": pa.string(),  # null: the source has no splits
        "source_id": pa.string(),  # the number of the image in its source, such as COCO's; null: it has none
    }
)
BLOCK = 256  # rows converted to Arrow at a time


class _Values(TypedDict):
    """A row, by column name."""

    image_id: str
    path: str
    offset: int
    size: int
    captions: list[str]
    split: str | None
    source_id: str | None


class TableBuilder:
    """Builds the table row by row and merges rows with the same id; only the last blocks are held as Python objects."""

    def __init__(self, notes: ReadingNotes | None = None) -> None:
        self._notes = notes if notes is not None else ReadingNotes()
        self._blocks: list[pa.Table] = []
        self._rows: list[_Values] = []  # rows not converted yet
        self._index: dict[str, int] = {}  # id -> row number
        self._changed: dict[int, _Values] = {}  # converted rows that were changed afterwards

    def __contains__(self, image_id: str) -> bool:
        return readable_text(image_id) in self._index

    def add(
        self,
        image_id: str,
        image: ImageSource,
        captions: Sequence[str],
        split: str | None,
        source_id: str | None = None,
    ) -> None:
        """Add a row, or its captions to the existing row of that id.

        Raises:
            DataError: the id already occurs in another split.
        """
        image_id = readable_text(image_id)
        if image_id in self._index:
            known = self._row(self._index[image_id])
            if split and known["split"] and split != known["split"]:
                raise DataError(
                    f"image '{image_id}' is in split '{known['split']}' and in '{split}'; keep each image in one split"
                )
            known["split"] = known["split"] or split
            known["source_id"] = known["source_id"] or source_id
            known["captions"].extend(captions)
            if _is_other(image, known):
                self._notes.add("conflicting_ids", image_id, f"{describe(image)} has the id of '{known['path']}'")
            return
        path, offset, size = (image.path, image.offset, image.size) if isinstance(image, Slice) else (image, 0, -1)
        # A path that is not valid UTF-8 is replaced by one that does not exist; the image is then reported as missing.
        row = _Values(
            image_id=image_id,
            path=readable_text(os.fsdecode(path)),
            offset=offset,
            size=size,
            captions=list(captions),
            split=split,
            source_id=source_id,
        )
        self._index[image_id] = len(self._index)
        self._rows.append(row)
        if len(self._rows) == 2 * BLOCK:  # keep the later half: captions of an image are usually adjacent
            self._convert(BLOCK)

    def _row(self, number: int) -> _Values:
        """The values of a row as a mutable dict, whether or not it has been converted to Arrow."""
        converted = len(self._blocks) * BLOCK
        if number >= converted:
            return self._rows[number - converted]
        if number not in self._changed:
            self._changed[number] = self._blocks[number // BLOCK].slice(number % BLOCK, 1).to_pylist()[0]
        return self._changed[number]

    def _convert(self, count: int) -> None:
        self._blocks.append(pa.Table.from_pylist(self._rows[:count], schema=SCHEMA))
        del self._rows[:count]

    def table(self) -> pa.Table:
        """The finished table. The builder is empty afterwards."""
        self._convert(len(self._rows))
        for block in {number // BLOCK for number in self._changed}:
            rows = enumerate(self._blocks[block].to_pylist(), block * BLOCK)
            changed = [self._changed.get(number, row) for number, row in rows]
            self._blocks[block] = pa.Table.from_pylist(changed, schema=SCHEMA)
        table = pa.concat_tables(self._blocks).combine_chunks()
        self._blocks.clear()
        pa.default_memory_pool().release_unused()  # otherwise Arrow keeps as much memory again in reserve
        return table


def _is_other(image: ImageSource, known: _Values) -> bool:
    """Whether an image is not that of a known row. Images in memory are compared by size."""
    if isinstance(image, bytes):
        return len(image) != known["size"]
    if isinstance(image, Slice):
        place = (readable_text(os.fsdecode(image.path)), image.offset, image.size)
        return place != (known["path"], known["offset"], known["size"])
    return readable_text(os.fsdecode(image)) != known["path"]


class TextSequence(Sequence[str]):
    """Texts that are read by position: an item or a slice is what `take` returns for its positions."""

    @abstractmethod
    def take(self, indices: NDArray[np.integer]) -> list[str]:
        """The texts at `indices`, from 0, in that order."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.take(np.array([index % len(self)]))[0]


class Captions(TextSequence):
    """All captions of a data set in row order, stored as Arrow strings and converted to Python strings on access."""

    def __init__(self, texts: pa.StringArray) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.texts.slice(start, BLOCK).to_pylist()

    def take(self, indices: NDArray[np.integer]) -> list[str]:
        """The captions at `indices`, in that order."""
        return self.texts.take(pa.array(indices, pa.int64())).to_pylist()

    def lengths(self) -> NDArray[np.int32]:
        """The number of characters of each caption: (captions,) int32."""
        return pc.utf8_length(self.texts).to_numpy(zero_copy_only=False)
