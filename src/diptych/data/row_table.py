"""A data set as an Arrow table: its columns, rows on their way into it, and its captions as they lie there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.errors import DataError
from diptych.images.decode import Picture, Slice, readable_text

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "path": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),  # -1: the picture is the whole file at `path`
        "captions": pa.list_(pa.string()),
        "split": pa.string(),  # null: the source names none
    }
)
BLOCK = 256  # rows that are read before they become Arrow

_Values = dict[str, Any]  # a row by the names of the schema


class TableBuilder:
    """Rows on their way into a table, those of one id as one; only the last few hundred are held as Python objects."""

    def __init__(self) -> None:
        self._blocks: list[pa.Table] = []
        self._rows: list[_Values] = []  # those of the block that is not closed yet
        self._places: dict[str, int] = {}  # id -> row
        self._late: dict[int, _Values] = {}  # rows of closed blocks which captions were added to

    def __contains__(self, image_id: str) -> bool:
        return readable_text(image_id) in self._places

    def add(self, image_id: str, image: Picture, captions: Sequence[str], split: str | None) -> None:
        image_id = readable_text(image_id)
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
        values = (image_id, readable_text(os.fsdecode(path)), offset, size, list(captions), split)
        self._places[image_id] = len(self._places)
        self._rows.append(dict(zip(SCHEMA.names, values, strict=True)))
        if len(self._rows) == 2 * BLOCK:  # the later half stays open: captions of one picture stand together
            self._close(BLOCK)

    def _row(self, at: int) -> _Values:
        """The row to change, whether its block is open or closed."""
        closed = len(self._blocks) * BLOCK
        if at >= closed:
            return self._rows[at - closed]
        if at not in self._late:
            self._late[at] = self._blocks[at // BLOCK].slice(at % BLOCK, 1).to_pylist()[0]
        return self._late[at]

    def _close(self, count: int) -> None:
        self._blocks.append(pa.Table.from_pylist(self._rows[:count], schema=SCHEMA))
        del self._rows[:count]

    def table(self) -> pa.Table:
        self._close(len(self._rows))
        for number in {at // BLOCK for at in self._late}:
            rows = self._blocks[number].to_pylist()
            rows = [self._late.get(number * BLOCK + at, row) for at, row in enumerate(rows)]
            self._blocks[number] = pa.Table.from_pylist(rows, schema=SCHEMA)
        table = pa.concat_tables(self._blocks).combine_chunks()
        self._blocks.clear()
        pa.default_memory_pool().release_unused()  # or Arrow keeps as much again for rows to come
        return table


class Captions(Sequence[str]):
    """All captions of a data set in row order, as Arrow text; one becomes a Python string when it is asked for."""

    def __init__(self, texts: pa.StringArray) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"caption {index} of {len(self)}")
        return self.texts[int(index) % len(self)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.texts.slice(start, BLOCK).to_pylist()

    def take(self, indices: np.ndarray) -> list[str]:
        """The captions at `indices`, in that order."""
        return self.texts.take(pa.array(indices, pa.int64())).to_pylist()

    def lengths(self) -> np.ndarray:
        """How many characters each has: (captions,) int32."""
        return pc.utf8_length(self.texts).to_numpy(zero_copy_only=False)
