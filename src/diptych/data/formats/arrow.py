"""Arrow reader for untrusted files: the stream files that `datasets` writes with `save_to_disk`.

The file is mapped into memory, so nothing is allocated by what it declares. Compressed and dictionary-encoded batches,
which could unpack to any size, are refused; `datasets` does not write them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from diptych.errors import DataError
from diptych.runtime.files import MAX_COLUMNS, check_regular

_FILE_MAGIC = b"ARROW1\0\0"  # of the file format: a stream between this and a footer
_BATCH_ROWS = 64  # rows converted to Python objects at a time, since they may embed images


def arrow_rows(path: Path, select: Callable[[list[str]], set[str]]) -> Iterator[tuple[int, dict[str, object]]]:
    """Iterate over (row number, row) of an Arrow stream or file; `select` chooses columns from the list of names.

    Raises:
        DataError: the file is not valid Arrow, is compressed, or has columns of a type that `datasets` does not write
            for images and captions.
    """
    check_regular(path)
    try:
        with pa.memory_map(str(path)) as file:
            file.seek(8 if file.read(8) == _FILE_MAGIC else 0)
            yield from enumerate(_rows(path, pa.ipc.MessageReader.open_stream(file), select))
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:  # ValueError: invalid UTF-8
        raise DataError(f"'{path}' is not a readable Arrow stream ({error}); save it again") from error


def _rows(
    path: Path, messages: pa.ipc.MessageReader, select: Callable[[list[str]], set[str]]
) -> Iterator[dict[str, object]]:
    if (first := next(iter(messages), None)) is None:
        raise DataError(f"'{path}' is not a readable Arrow stream (it has no schema); save it again")
    schema = pa.ipc.read_schema(first)
    if len(schema.names) > MAX_COLUMNS:
        raise DataError(f"'{path}' has {len(schema.names):,} columns, the limit is {MAX_COLUMNS:,}; remove some")
    wanted = select(schema.names)
    columns = [index for index, name in enumerate(schema.names) if name in wanted]
    for index in columns:
        if not _is_plain(schema.field(index).type):
            raise DataError(
                f"'{path}': column '{schema.names[index]}' has the type {schema.field(index).type}, which is not read; "
                "save it as text, lists of text, or images"
            )
    for message in messages:
        if message.type != "record batch" or _is_compressed(message):
            raise DataError(f"'{path}' is compressed or dictionary-encoded; save it with `datasets`, or as Parquet")
        batch = pa.ipc.read_record_batch(message, schema).select(columns)
        batch.validate(full=True)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield from batch.slice(start, _BATCH_ROWS).to_pylist()


def _is_plain(kind: pa.DataType) -> bool:
    """Whether each value of a type takes as much memory as the file has for it."""
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    checks = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
    )
    return any(check(kind) for check in checks)


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether the buffers of a record batch are compressed, from the FlatBuffers table in the header of its message.

    https://github.com/apache/arrow/blob/main/format/Message.fbs: field 2 of `Message` is the `RecordBatch`, whose field
    3 is the compression.
    """
    header = message.metadata.to_pybytes()
    (root,) = struct.unpack_from("<I", header, 0)
    place = _field(header, root, 2)
    if place is None:
        return True
    (offset,) = struct.unpack_from("<I", header, place)
    return _field(header, place + offset, 3) is not None


def _field(header: bytes, table: int, number: int) -> int | None:
    """The position of a field of a FlatBuffers table; None if it is absent."""
    (back,) = struct.unpack_from("<i", header, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", header, vtable)
    slot = 4 + 2 * number
    if vtable < 0 or slot >= size:
        return None
    (offset,) = struct.unpack_from("<H", header, vtable + slot)
    return table + offset if offset else None
