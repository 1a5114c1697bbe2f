"""Streaming tar reader for untrusted files: checks the size of each header before reading it."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from diptych.errors import DataError
from diptych.images.walk import is_hidden
from diptych.runtime.files import MAX_MEMBERS, MAX_RECORD, Ratio, open_file

_BLOCK = 512
_MAX_NAME = 4_096  # PATH_MAX on Linux
_STEP = 1 << 20  # bytes skipped at a time
_LONG_NAME, _PAX = (tarfile.GNUTYPE_LONGNAME,), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_RECORDS = (*_LONG_NAME, *_PAX, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)  # headers that describe other members
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


class NotATar(Exception):  # noqa: N818 - the name is the diagnosis
    """The file is not a valid tar: a header is malformed, or the file ends within a member."""


_DAMAGED = (NotATar, tarfile.TarError, EOFError, OSError, ValueError, zlib.error)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and the offset and size of its content in bytes."""

    name: str
    offset: int
    size: int
    _source: _Bytes

    def read(self, most: int) -> bytes:
        """The first `most` bytes of the content. In a compressed tar, call this before advancing to the next member.

        Raises:
            DataError: the file is truncated or damaged.
        """
        try:
            return self._source.read(self.offset, min(self.size, most))
        except _DAMAGED as error:
            raise _invalid(self._source.path, error) from error


def members(path: Path, *, packed: bool = False) -> Iterator[Member]:
    """Iterate over the regular files of a tar; `packed` means gzip. Links, devices and folders are skipped.

    `tarfile` reads long names and PAX records of any declared length into memory; here they are limited to
    `MAX_RECORD` bytes. A compressed tar may unpack to at most `MAX_RATIO` times its size.

    Raises:
        DataError: the file is not a complete tar, or exceeds a limit; the message names the file.
    """
    with open_file(path) as file:
        size = path.stat().st_size
        source = _Bytes(path, gzip.GzipFile(fileobj=file), size) if packed else _Bytes(path, file)
        try:
            yield from _members(path, source, None if packed else size)
        except _DAMAGED as error:
            raise _invalid(path, error) from error


def is_hidden_member(name: str) -> bool:
    """Whether a member of an archive, or a folder above it, is hidden by the rule of `diptych.images.walk`.

    Such are macOS's companions (`._a.jpg`, `__MACOSX/`), which have the names and suffixes of images and captions.
    """
    parts = name.replace("\\", "/").split("/")
    return any(is_hidden(part) for part in parts if part not in ("", ".", ".."))


def _invalid(path: Path, error: Exception) -> DataError:
    return DataError(f"'{path}' is not a complete tar file ({error}); download it again")


class _Bytes:
    """Forward-only access to the bytes of a tar; the unpacked size of a compressed one is limited."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile, packed: int | None = None) -> None:
        self.path, self._file, self._position = path, file, 0
        self._ratio = None if packed is None else Ratio(path, packed)

    def header(self, offset: int) -> bytes:
        """The block at `offset`; empty at the end of the file."""
        self._seek(offset)
        content = self._file.read(_BLOCK)
        self._count(content)
        return content

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`."""
        self._seek(offset)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        content = self._file.read(size)
        self._count(content)
        if len(content) < size:
            raise NotATar(f"it ends after {self._position:,} bytes, within a member")
        return content

    def _count(self, content: bytes) -> None:
        self._position += len(content)
        if self._ratio:
            self._ratio.note(len(content))

    def _seek(self, offset: int) -> None:
        if self._ratio is None:
            self._file.seek(offset)
            self._position = offset
        elif offset < self._position:
            raise ValueError(f"cannot seek back to byte {offset:,}")
        while self._position < offset:
            self._take(min(_STEP, offset - self._position))


def _members(path: Path, source: _Bytes, end: int | None) -> Iterator[Member]:
    offset = count = 0
    name, size = "", -1  # from preceding extension headers; -1: none
    while (header := source.header(offset) if end is None or offset < end else b"").strip(b"\0"):
        info = _parsed(header, offset)
        offset += _BLOCK
        if (length := info.size) < 0 or (end is not None and length > end - offset and info.type not in _EMPTY):
            raise NotATar(f"the member at byte {offset - _BLOCK:,} has {length:,} bytes, more than the file contains")
        if info.type in _RECORDS:
            name, size = _described(source, info, offset, name, size)
            offset += _padded(length)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise NotATar(f"the member '{info.name[:80]}' is sparse; create the tar without --sparse")
        name, length = name or info.name, length if size < 0 else size
        if end is not None and length > end - offset and info.type not in _EMPTY:
            raise NotATar(f"the member '{name[:80]}' has {length:,} bytes, more than the file contains")
        if info.type in _FILES and not name.endswith("/"):
            if (count := count + 1) > MAX_MEMBERS:
                raise DataError(f"'{path}' contains more than {MAX_MEMBERS:,} files; split it into several shards")
            yield Member(_checked(name), offset, length, source)
        offset += 0 if info.type in _EMPTY else _padded(length)
        name, size = "", -1
    if not offset and len(header) < _BLOCK:
        raise NotATar("it is empty" if not header else "it has no header")


def _described(source: _Bytes, info: tarfile.TarInfo, offset: int, name: str, size: int) -> tuple[str, int]:
    """Name and size of the next member, by the extension header whose content is at `offset`; else as they are."""
    if info.size > MAX_RECORD:
        raise NotATar(f"the header at byte {offset - _BLOCK:,} has {info.size:,} bytes, the limit is {MAX_RECORD:,}")
    record = source.read(offset, info.size)
    if info.type in _LONG_NAME:
        return record.partition(b"\0")[0].decode("utf-8", "surrogateescape"), size
    return _pax(record, name) if info.type in _PAX else (name, size)


def _parsed(header: bytes, offset: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise NotATar(f"no header at byte {offset:,}: {error}") from error


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _pax(record: bytes, name: str) -> tuple[str, int]:
    r"""Parse PAX records `LENGTH KEY=VALUE\n`: the member name (default `name`) and its size (-1 if absent)."""
    size, start = -1, 0
    while start < len(record) and record[start]:
        digits, _, _ = record[start : start + 20].partition(b" ")
        length = int(digits)
        key, equals, value = record[start + len(digits) + 1 : start + length].partition(b"=")
        if length < len(digits) + 3 or start + length > len(record) or not equals:
            raise NotATar("a PAX record has a wrong length")
        if key.startswith(b"GNU.sparse."):
            raise NotATar("a member is sparse; create the tar without --sparse")
        if key == b"path":
            name = value.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        elif key == b"size" and (size := int(value)) < 0:
            raise NotATar("a PAX record has a negative size")
        start += length
    return name, size


def _checked(name: str) -> str:
    if len(name) > _MAX_NAME or "\0" in name or ".." in PurePosixPath(name).parts:
        raise NotATar(f"the name '{name[:80]}' is longer than {_MAX_NAME:,} characters, or contains '..' or NUL")
    return name
