"""Unpacking untrusted ZIP archives: nothing is written outside the target folder or beyond the limits."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from diptych.data.formats.tar import is_hidden_member
from diptych.errors import DataError
from diptych.images.suffixes import IMAGE_SUFFIXES
from diptych.runtime.files import MAX_RATIO, RATIO_ALLOWANCE, open_file
from diptych.runtime.progress import Progress, silent

MAX_BYTES = 64 << 30  # total unpacked size
_MAX_DIRECTORY = 16 << 20  # bytes of the central directory: about 200,000 files
# Deflate needs 32 KiB to unpack and bzip2 8 MB; LZMA needs whatever the archive asks for, up to 4 GiB.
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bzip2"}
_MAX_NAME = 240  # bytes; file systems allow 255, and `.part` is appended
_BLOCK = 1 << 20
# Raised by zipfile and its decompressors on damaged archives; ValueError: a name that is not UTF-8.
_DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error),
    zlib.error,
)
_TEXTS = (".json", ".csv", ".txt", ".jsonl", ".tsv")


def unpack(archive: Path, folder: Path, *, progress: Progress = silent, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Unpack the images and text files of a ZIP archive into `folder` under their base names, and yield each path.

    Folder names and files of other types are dropped, so no entry can leave `folder`. A file that already exists in
    its full size is kept.

    Raises:
        DataError: the archive is not a ZIP or is damaged; two entries have the same name or share bytes; an entry uses
            a compression method other than store, deflate and bzip2; or the unpacked files exceed `max_bytes` or
            `MAX_RATIO` times the size of the archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_file(archive) as file, zipfile.ZipFile(_Bounded(file, archive)) as source:
            entries = _entries(source, archive)
            most = min(max_bytes, MAX_RATIO * archive.stat().st_size + RATIO_ALLOWANCE)
            if (size := sum(entry.file_size for entry in entries.values())) > most:
                raise DataError(
                    f"'{archive}' unpacks to {size:,} bytes, the limit is {most:,}; if you trust its source, unpack it "
                    "yourself, for example with `unzip`"
                )
            for name, entry in progress(entries.items(), len(entries), f"unpacking {archive.name}"):
                target = folder / name
                if not target.is_file() or target.stat().st_size != entry.file_size:
                    part = folder / f".{name}.part"
                    with source.open(entry) as packed, part.open("wb") as sink:
                        _copy(packed, sink)
                    part.replace(target)
                yield target
    except _DAMAGED as error:
        raise DataError(f"'{archive}' cannot be unpacked ({error}); delete it and download it again") from error


class _Bounded(io.BufferedReader):
    """A file that limits the size of one read, because `zipfile` reads the central directory in one piece."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        super().__init__(file)  # type: ignore[arg-type] # a reader over a reader
        self._archive = archive

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(_MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(content) > _MAX_DIRECTORY:
            raise DataError(
                f"'{self._archive}' has a central directory of more than {_MAX_DIRECTORY:,} bytes; unpack it yourself"
            )
        return content


def _copy(packed: IO[bytes], sink: IO[bytes]) -> None:
    while block := _read(packed):
        sink.write(block)


def _read(packed: IO[bytes]) -> bytes:
    """The next block. bz2 reports damage as OSError, which would otherwise look like a full disk."""
    try:
        return packed.read(_BLOCK)
    except OSError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _entries(source: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    names: set[str] = set()
    end = 0
    for entry in sorted(source.infolist(), key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise DataError(f"'{archive}' has overlapping entries ('{entry.filename[:80]}'); download it again")
        end = entry.header_offset + entry.compress_size
    for entry in source.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/")).name
        is_left_out = is_hidden_member(entry.filename) or ":" in name  # a colon names an NTFS stream
        if entry.is_dir() or is_left_out or Path(name).suffix.lower() not in (*IMAGE_SUFFIXES, *_TEXTS):
            continue
        if entry.compress_type not in _METHODS:
            raise DataError(
                f"'{archive}' cannot be unpacked ('{name[:80]}' uses compression method {entry.compress_type}; "
                f"supported: {', '.join(_METHODS.values())}); unpack it yourself"
            )
        if name.lower() in names:  # some file systems ignore case
            raise DataError(f"'{archive}' contains two files called '{name}'; unpack it yourself")
        if len(name.encode("utf-8", "replace")) > _MAX_NAME:
            raise DataError(
                f"'{archive}' contains a file name of more than {_MAX_NAME} bytes ('{name[:40]}...'); unpack it "
                "yourself"
            )
        names.add(name.lower())
        entries[name] = entry
    return entries
