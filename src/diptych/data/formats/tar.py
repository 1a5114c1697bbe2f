"""The members of tar files, one after the other, with every header bounded before it is read."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from diptych.errors import DataError
from diptych.runtime.files import MAX_MEMBERS, MAX_RECORD, Ratio, open_file

_BLOCK = 512
_LONGEST_NAME = 4_096  # PATH_MAX of Linux
_STEP = 1 << 20  # bytes that are passed over at once
_LONG_NAME, _PAX = (tarfile.GNUTYPE_LONGNAME,), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_RECORDS = (*_LONG_NAME, *_PAX, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)  # headers that describe other members
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


class NotATar(Exception):  # noqa: N818 - it says what the file is
    """What follows is no tar header, or the file ends within a member."""


_DAMAGED = (NotATar, tarfile.TarError, EOFError, OSError, ValueError, zlib.error)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, where its bytes begin and how many they are."""

    name: str
    offset: int
    size: int
    _source: _Bytes

    def read(self, most: int) -> bytes:
        """Its first `most` bytes; call it before the next member is asked for.

        Raises:
            DataError: the file ends before, or is damaged.
        """
        try:
            return self._source.read(self.offset, min(self.size, most))
        except _DAMAGED as error:
            raise _not_whole(self._source.path, error) from error


def members(path: Path, *, packed: bool = False) -> Iterator[Member]:
    """The regular files in a tar, `packed` with gzip or not; links, devices and folders are left out.

    The standard library reads the long name or the PAX records of a member whole, whatever length its header gives;
    here they are at most `MAX_RECORD` bytes. A packed tar may unpack to `MAX_RATIO` times its size.

    Raises:
        DataError: it is no whole tar file, or breaks a limit; the message names the file.
    """
    with open_file(path) as file:
        whole = path.stat().st_size
        source = _Bytes(path, gzip.GzipFile(fileobj=file), whole) if packed else _Bytes(path, file)
        try:
            yield from _members(path, source, None if packed else whole)
        except _DAMAGED as error:
            raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> DataError:
    return DataError(f"'{path}' is not a whole tar file ({error}); fetch it again")


class _Bytes:
    """The bytes of a tar from first to last; those of a packed one are counted."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile, packed: int | None = None) -> None:
        self.path, self._file, self._at = path, file, 0
        self._ratio = None if packed is None else Ratio(path, packed)

    def header(self, offset: int) -> bytes:
        """What may be a header; "" at the end of the file."""
        self._pass_to(offset)
        content = self._file.read(_BLOCK)
        self._note(content)
        return content

    def read(self, offset: int, size: int) -> bytes:
        self._pass_to(offset)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        content = self._file.read(size)
        self._note(content)
        if len(content) < size:
            raise NotATar(f"it ends after {self._at:,} bytes, within a member")
        return content

    def _note(self, content: bytes) -> None:
        self._at += len(content)
        if self._ratio:
            self._ratio.note(len(content))

    def _pass_to(self, offset: int) -> None:
        if self._ratio is None:
            self._file.seek(offset)
            self._at = offset
        elif offset < self._at:
            raise ValueError(f"byte {offset:,} is read again")
        while self._at < offset:
            self._take(min(_STEP, offset - self._at))


def _members(path: Path, source: _Bytes, whole: int | None) -> Iterator[Member]:
    at = count = 0
    name, size = "", -1  # what the headers before say of the next member
    while (header := source.header(at) if whole is None or at < whole else b"").strip(b"\0"):
        info = _parsed(header, at)
        at += _BLOCK
        if (length := info.size) < 0 or (whole is not None and length > whole - at and info.type not in _EMPTY):
            raise NotATar(f"the member at byte {at - _BLOCK:,} has {length:,} bytes, which are not there")
        if info.type in _RECORDS:
            if length > MAX_RECORD:
                raise NotATar(f"the header at byte {at - _BLOCK:,} has {length:,} bytes, the limit is {MAX_RECORD:,}")
            record = source.read(at, length)
            if info.type in _LONG_NAME:
                name = record.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            elif info.type in _PAX:
                name, size = _pax(record, name)
            at += _padded(length)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise NotATar(f"the member '{info.name[:80]}' is sparse; pack it without --sparse")
        name, length = name or info.name, length if size < 0 else size
        if whole is not None and length > whole - at and info.type not in _EMPTY:
            raise NotATar(f"the member '{name[:80]}' has {length:,} bytes, which are not there")
        if info.type in _FILES and not name.endswith("/"):
            if (count := count + 1) > MAX_MEMBERS:
                raise DataError(f"'{path}' holds more than {MAX_MEMBERS:,} files; split it into several shards")
            yield Member(_checked(name), at, length, source)
        at += 0 if info.type in _EMPTY else _padded(length)
        name, size = "", -1
    if not at and len(header) < _BLOCK:
        raise NotATar("it is empty" if not header else "it has no header")


def _parsed(header: bytes, at: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise NotATar(f"no header at byte {at:,}: {error}") from error


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _pax(record: bytes, name: str) -> tuple[str, int]:
    """The name and the size (-1: none) in PAX records `LENGTH KEY=VALUE\\n`."""
    size, at = -1, 0
    while at < len(record) and record[at]:
        digits, _, _ = record[at : at + 20].partition(b" ")
        length = int(digits)
        key, equals, value = record[at + len(digits) + 1 : at + length].partition(b"=")
        if length < len(digits) + 3 or at + length > len(record) or not equals:
            raise NotATar("a PAX record has another length than it names")
        if key.startswith(b"GNU.sparse."):
            raise NotATar("a member is sparse; pack it without --sparse")
        if key == b"path":
            name = value.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        elif key == b"size" and (size := int(value)) < 0:
            raise NotATar("a PAX record names a size below 0")
        at += length
    return name, size


def _checked(name: str) -> str:
    if len(name) > _LONGEST_NAME or "\0" in name or ".." in PurePosixPath(name).parts:
        raise NotATar(f"the name '{name[:80]}' is longer than {_LONGEST_NAME:,} characters, or holds '..' or NUL")
    return name
