"""Parquet reader for untrusted files, with bounded memory use.

Arrow allocates whatever a file declares: the unpacked size in a page header, a copy of a dictionary value for each row,
as many list entries as a run length states. Therefore page headers are checked here before Arrow reads the pages, and
columns stay dictionary-encoded until their decoded size is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.errors import DataError
from diptych.runtime.files import MAX_COLUMNS, MAX_RATIO, Ratio, open_file

_MAX_FOOTER = 16 << 20  # bytes; a file of 10,000 row groups has 12 MiB
_MAX_DEPTH = 32  # of nested columns; Arrow recurses into them without a limit
_PAGE_ALLOWANCE = 16 << 20  # bytes allowed beyond MAX_RATIO times the compressed page; writers use pages of 1 MiB
_MAX_PAGE_HEADER = 1 << 20
_SPARE = 1_000_000  # allowance: rows beyond one per byte of the file, and list values beyond _MAX_LIST per row
_MAX_LIST = 1_000
_BATCH_BYTES = 32 << 20
_BATCH_ROWS = (64, 2_048)  # minimum and maximum; rows with embedded images are large
_DELTA_BYTE_ARRAY = 7  # Parquet's code of an encoding in which a few bits can repeat the previous value


def parquet_rows(path: Path, select: Callable[[list[str]], set[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate over (row number, row) of a Parquet file; `select` chooses columns from the list of column names.

    Raises:
        DataError: the file is not valid Parquet, or exceeds a limit; the message names the file.
    """
    try:
        with open_file(path) as file:
            size = _check_footer(path, file)
            with closing(pq.ParquetFile(path)) as table:
                _check_rows(path, table, size)
                wanted = select(table.schema_arrow.names)
                yield from enumerate(_rows(path, file, table, wanted, Ratio(path, size)))
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: invalid UTF-8
        raise DataError(f"'{path}' is not readable Parquet ({error}); download it again") from error


def row_count(path: Path) -> int:
    """The number of rows of a Parquet file.

    Raises:
        DataError: the file is not valid Parquet, or exceeds a limit.
    """
    try:
        with open_file(path) as file:
            size = _check_footer(path, file)
        with closing(pq.ParquetFile(path)) as table:
            return _check_rows(path, table, size)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"'{path}' is not readable Parquet ({error}); download it again") from error


_NEXT = "download it again, or rewrite it with pyarrow if you trust its source"


def _check_rows(path: Path, table: pq.ParquetFile, size: int) -> int:
    if (rows := table.metadata.num_rows) > size + _SPARE:
        raise DataError(f"'{path}' declares {rows:,} rows in {size:,} bytes; {_NEXT}")
    return int(rows)


def _rows(
    path: Path, file: BinaryIO, table: pq.ParquetFile, wanted: set[str], ratio: Ratio
) -> Iterator[dict[str, Any]]:
    columns = [table.schema.column(leaf) for leaf in range(table.metadata.num_columns)]
    names = tuple(f"{name}." for name in wanted)
    leaves = [leaf for leaf, column in enumerate(columns) if f"{column.path}.".startswith(names)]
    ordered = [name for name in table.schema_arrow.names if name in wanted]
    if not ordered:
        yield from ({} for _ in range(table.metadata.num_rows))
        return
    texts = [columns[leaf].path for leaf in leaves if columns[leaf].physical_type == "BYTE_ARRAY"]
    with closing(pq.ParquetFile(path, read_dictionary=texts)) as packed:
        for group in range(table.num_row_groups):
            for leaf in leaves:
                _check_pages(path, file, table, group, leaf)
            size = _batch_rows(table, group, leaves)
            for batch in packed.iter_batches(size, row_groups=[group], columns=ordered):
                for part in _small(batch):
                    ratio.note(_decoded_bytes(part))
                    yield from _plain(part).to_pylist()


def _check_footer(path: Path, file: BinaryIO) -> int:
    """Check the size of the footer, and the number and nesting of columns; returns the size of the file."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if size < 12 or tail[4:] != b"PAR1":
        raise DataError(f"'{path}' is not readable Parquet (it does not end with PAR1); download it again")
    length = int.from_bytes(tail[:4], "little")
    if length > min(size - 12, _MAX_FOOTER):
        raise DataError(f"'{path}' has a footer of {length:,} bytes, the limit is {_MAX_FOOTER:,}; {_NEXT}")
    file.seek(size - 8 - length)
    thrift = _Thrift(file.read(length))
    for field, kind in thrift.fields():
        if field == 2:
            columns = [_integer(thrift.struct(), 5) for _ in range(thrift.list_length())]
            if len(columns) > 2 * MAX_COLUMNS:
                raise DataError(f"'{path}' has {len(columns):,} columns, the limit is {2 * MAX_COLUMNS:,}; {_NEXT}")
            if _depth(columns) > _MAX_DEPTH:
                raise DataError(f"'{path}' nests columns more than {_MAX_DEPTH} deep; {_NEXT}")
            break
        thrift.skip(kind)
    file.seek(0)
    return size


def _depth(children: list[int]) -> int:
    """The nesting depth of a schema, given as the number of children of each node in preorder."""
    deepest = 0
    remaining: list[int] = []  # children not yet visited, for each ancestor
    for count in children:
        while remaining and not remaining[-1]:
            remaining.pop()
        if remaining:
            remaining[-1] -= 1
        remaining.append(count)
        deepest = max(deepest, len(remaining))
    return deepest


def _check_pages(path: Path, file: BinaryIO, table: pq.ParquetFile, group: int, leaf: int) -> None:
    """Check the page headers of one column chunk: unpacked page sizes, and the number of list values."""
    chunk, rows = table.metadata.row_group(group).column(leaf), table.metadata.row_group(group).num_rows
    is_list = table.schema.column(leaf).max_repetition_level > 0
    name = f"'{path}', column '{chunk.path_in_schema}'"
    offset = chunk.data_page_offset
    if chunk.dictionary_page_offset and 0 < chunk.dictionary_page_offset < offset:
        offset = chunk.dictionary_page_offset
    end, values = offset + chunk.total_compressed_size, 0
    while offset < end and values < chunk.num_values:
        header, length = _page_header(path, file, offset)
        packed, unpacked = _integer(header, 3), _integer(header, 2)
        if packed < 0 or unpacked < 0 or unpacked > MAX_RATIO * packed + _PAGE_ALLOWANCE:
            raise DataError(f"{name}: a page of {packed:,} bytes unpacks to {unpacked:,}; {_NEXT}")
        page = header.get(5) or header.get(8) or {}
        if not isinstance(page, dict):
            raise ValueError(f"no page at byte {offset:,}")
        count = _integer(page, 1)
        values += max(0, count)
        if is_list and (page.get(2 if 5 in header else 4) == _DELTA_BYTE_ARRAY):
            raise DataError(f"{name}: lists in the encoding DELTA_BYTE_ARRAY are not supported; {_NEXT}")
        if is_list and values > _MAX_LIST * rows + _SPARE:
            raise DataError(f"{name}: {values:,} values in {rows:,} rows, the limit is {_MAX_LIST:,} per row; {_NEXT}")
        offset += length + packed


def _integer(struct: dict[int, Any], number: int) -> int:
    """The integer field `number` of a struct; 0 if it is absent."""
    value = struct.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} of a header is not an integer")
    return value


def _page_header(path: Path, file: BinaryIO, offset: int) -> tuple[dict[int, Any], int]:
    """The page header at `offset` as field number -> value, and its length in bytes."""
    window = 1 << 10
    while True:
        file.seek(offset)
        content = file.read(window)
        thrift = _Thrift(content)
        try:
            return thrift.struct(), thrift.position
        except _TruncatedError:
            if len(content) < window or window >= _MAX_PAGE_HEADER:
                raise DataError(
                    f"'{path}' is not readable Parquet (no page at byte {offset:,}); download it again"
                ) from None
            window *= 4


def _batch_rows(table: pq.ParquetFile, group: int, leaves: list[int]) -> int:
    metadata = table.metadata.row_group(group)
    size = sum(metadata.column(leaf).total_uncompressed_size for leaf in leaves)
    least, most = _BATCH_ROWS
    return max(least, min(most, _BATCH_BYTES * metadata.num_rows // max(size, 1)))


def _small(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch into parts of at most `_BATCH_BYTES` decoded bytes, or of one row."""
    if batch.num_rows < 2 or _decoded_bytes(batch) <= _BATCH_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _small(batch.slice(0, half))
    yield from _small(batch.slice(half))


def _decoded_bytes(batch: pa.RecordBatch) -> int:
    return sum(map(_bytes, batch.columns))


def _bytes(array: pa.Array) -> int:
    """The size of an array in bytes after dictionary decoding."""
    kind = array.type
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return len(array) + (pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_bytes, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return len(array) + _bytes(array.flatten())
    return int(array.nbytes)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        (
            pa.types.is_binary(kind),
            pa.types.is_string(kind),
            pa.types.is_large_binary(kind),
            pa.types.is_large_string(kind),
        )
    )


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Decode top-level dictionary columns, which convert to Python objects faster."""
    arrays = [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


class _TruncatedError(ValueError):
    """The buffer ends within a value."""


class _Thrift:
    """A reader of Thrift's compact protocol, the encoding of Parquet's headers.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.position = content, 0

    def struct(self) -> dict[int, Any]:
        """Read a struct: integers and structs by field number; other values are skipped."""
        return {field: self._value(kind) for field, kind in self.fields()}

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct. The caller must read or skip each value before advancing."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            yield number, head & 15

    def list_length(self) -> int:
        """Read the header of a list and return its length."""
        head = self._byte()
        return self._varint() if head >> 4 == 15 else head >> 4

    def skip(self, kind: int) -> None:
        """Skip a value of the given type."""
        self._value(kind)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("a header is nested too deeply")
        if kind in (1, 2):  # true and false; the type is the value
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._advance(8)
        if kind == 8:
            return self._advance(self._varint())
        if kind in (9, 10):
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._byte() if head & 15 in (1, 2) else self._value(head & 15, depth + 1)
            return None
        if kind == 12:
            return {field: self._value(field_kind, depth + 1) for field, field_kind in self.fields()}
        raise ValueError(f"a header has a value of type {kind}")  # maps are not used by Parquet

    def _advance(self, size: int) -> None:
        self.position += size
        if self.position > len(self._content):
            raise _TruncatedError("a header ends within a value")

    def _byte(self) -> int:
        self._advance(1)
        return self._content[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            if (shift := shift + 7) > 63:
                raise ValueError("a header has a number of more than 64 bits")
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
