"""Safe reading of untrusted files: regular files only, with limits on what is held in memory at once.

All limits apply to one record or to a ratio, never to the size of a stream: shards of 10 GB and tables of millions of
lines are read.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from diptych.errors import DataError

# Bytes of a line, CSV record, JSON value, tar header record, or text member of a shard: a thousand times the longest
# caption in use. Parsed JSON takes up to 25 times its size in memory, 25 MiB at most.
MAX_RECORD = 1 << 20
# Columns of a table: each costs time and memory in every row, even in a row of one character.
MAX_COLUMNS = 4_096
# Unpacked bytes per packed byte, beyond `RATIO_ALLOWANCE`. Images hardly shrink and captions shrink 3 to 20 times;
# DEFLATE reaches 1,032, a Parquet dictionary any ratio.
MAX_RATIO = 100
RATIO_ALLOWANCE = 64 << 20  # one image of the largest size that is decoded
# Bytes of text files that are read at once: lists of classes, phrases, a model's or data set's metadata.
MAX_TEXT = 16 << 20
# Members of an archive, and files that a pattern matches: each takes some 400 bytes.
MAX_MEMBERS = 1_000_000
MAX_PATTERN_FILES = 300_000

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes.

    A pipe would wait for a writer and a device may never end. So the file is opened without blocking, and the opened
    descriptor is checked rather than the path, which may change in between.

    Raises:
        DataError: it is a folder, a pipe, a socket or a device, or may not be read.
        FileNotFoundError: it does not exist.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # OSError: also a socket; ValueError: a NUL in the path
        raise DataError(f"'{path}' cannot be read ({error}); check its path, kind and permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"'{path}' is not a regular file; give the path of a file, or remove it")
    return open(descriptor, "rb")  # noqa: PTH123 (a descriptor is no path)


def check_regular(path: str | Path) -> None:
    """Check that `open_file` could open a path, before a library opens it by itself.

    Raises:
        DataError, FileNotFoundError: as `open_file`.
    """
    open_file(path).close()


def read_file(path: str | Path, max_bytes: int = MAX_TEXT) -> bytes:
    """The bytes of a regular file.

    Raises:
        DataError: as `open_file`, or it has more than `max_bytes`.
        FileNotFoundError: it does not exist.
    """
    with open_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"'{path}' has more than {max_bytes:,} bytes, the limit for such a file; split it")
    return content


def read_text(path: str | Path, max_bytes: int = MAX_TEXT) -> str:
    """The text of a regular file, in UTF-8 with or without a byte order mark.

    Raises:
        DataError: as `read_file`, or it is not UTF-8.
        FileNotFoundError: it does not exist.
    """
    try:
        return read_file(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 ({error}); save it as UTF-8") from error


class TextFile(io.TextIOWrapper):
    """A text file whose lines may have at most `MAX_RECORD` characters.

    Raises:
        DataError: a line is longer. The message names the file and line.
    """

    def __init__(self, path: Path, encoding: str, errors: str, newline: str | None = None) -> None:
        super().__init__(open_file(path), encoding=encoding, errors=errors, newline=newline)
        self._path, self._lines = path, 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # noqa: ARG002 - as in `TextIOWrapper`
        """The next line; `size` is ignored."""
        line = super().readline(MAX_RECORD + 1)
        self._lines += 1
        if len(line) > MAX_RECORD:
            raise DataError(
                f"'{self._path}', line {self._lines:,} is longer than {MAX_RECORD:,} characters; "
                "break it into lines, or remove it"
            )
        return line

    def __next__(self) -> str:  # type: ignore[override]
        if line := self.readline():
            return line
        raise StopIteration

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek, and count lines from there."""
        self._lines = 0
        return super().seek(offset, whence)


class Ratio:
    """Counts the bytes that are unpacked from `packed` bytes of a file."""

    def __init__(self, path: Path, packed: int) -> None:
        self._path, self._unpacked = path, 0
        self.limit = MAX_RATIO * packed + RATIO_ALLOWANCE

    def note(self, size: int) -> None:
        """Add `size` unpacked bytes.

        Raises:
            DataError: the total exceeds `MAX_RATIO` times the packed size plus `RATIO_ALLOWANCE`.
        """
        self._unpacked += size
        if self._unpacked > self.limit:
            raise DataError(
                f"'{self._path}' unpacks to more than {self.limit:,} bytes, {MAX_RATIO} times its size and "
                f"{RATIO_ALLOWANCE >> 20} MiB; unpack it yourself if you trust where it comes from"
            )
