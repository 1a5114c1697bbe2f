"""ZIP archives of strangers, unpacked: nothing lands outside the folder, and no more than the limits allow."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from diptych.errors import DataError
from diptych.images.decode import IMAGE_SUFFIXES
from diptych.runtime.files import MAX_RATIO, RATIO_ALLOWANCE, open_file
from diptych.runtime.progress import Progress, silent

MAX_BYTES = 64 << 30  # of all files together
_MAX_DIRECTORY = 16 << 20  # bytes of the list of files: some 200,000 of them
# DEFLATE needs 32 KiB to unpack and bzip2 8 MB; LZMA what the archive names, up to 4 GiB.
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bzip2"}
_LONGEST_NAME = 240  # bytes; file systems take 255, and `.part` is added
_BLOCK = 1 << 20
# What zipfile and its decompressors were seen to raise on damaged archives; ValueError: a name that is not UTF-8.
_DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error),
    zlib.error,
)
_TEXTS = (".json", ".csv", ".txt", ".jsonl", ".tsv")


def unpack(archive: Path, folder: Path, *, progress: Progress = silent, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Unpack the pictures and text files of a ZIP into `folder`, by their bare names; yields each path.

    Folders inside the archive, and everything of another kind, are left out, so no name leads anywhere else. A file
    that is there in its full size is kept.

    Raises:
        DataError: it is no ZIP or is damaged, two files in it have one name or share bytes, one is packed in another
            way than those of `_METHODS`, or its files are larger than `max_bytes` or `MAX_RATIO` times its size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_file(archive) as file, zipfile.ZipFile(_Bounded(file, archive)) as source:
            entries = _entries(source, archive)
            most = min(max_bytes, MAX_RATIO * archive.stat().st_size + RATIO_ALLOWANCE)
            if (size := sum(entry.file_size for entry in entries.values())) > most:
                raise DataError(
                    f"'{archive}' holds {size:,} bytes, the limit is {most:,}; unpack it by hand, as with `unzip`, if "
                    "you trust where it comes from"
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
        raise DataError(f"'{archive}' cannot be unpacked ({error}); remove it and fetch it again") from error


class _Bounded(io.BufferedReader):
    """A file that refuses to be read in pieces larger than a list of files may be: `zipfile` reads the list whole."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        super().__init__(file)  # type: ignore[arg-type] # a reader over a reader
        self._archive = archive

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(_MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(content) > _MAX_DIRECTORY:
            raise DataError(
                f"'{self._archive}' has a list of files of more than {_MAX_DIRECTORY:,} bytes; unpack it by hand"
            )
        return content


def _copy(packed: IO[bytes], sink: IO[bytes]) -> None:
    while block := _read(packed):
        sink.write(block)


def _read(packed: IO[bytes]) -> bytes:
    """The next bytes; bz2 says that they are damaged by an OSError, as a disk says that it is full."""
    try:
        return packed.read(_BLOCK)
    except OSError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _entries(source: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    names: set[str] = set()
    end = 0
    for entry in sorted(source.infolist(), key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise DataError(f"'{archive}' holds files that share bytes ('{entry.filename[:80]}'); fetch it again")
        end = entry.header_offset + entry.compress_size
    for entry in source.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/")).name
        hidden = name.startswith(".") or "__MACOSX" in entry.filename or ":" in name  # on Windows a stream of a file
        if entry.is_dir() or hidden or Path(name).suffix.lower() not in (*IMAGE_SUFFIXES, *_TEXTS):
            continue
        if entry.compress_type not in _METHODS:
            raise DataError(
                f"'{archive}' cannot be unpacked ('{name[:80]}' is packed by method {entry.compress_type}, not by "
                f"{', '.join(_METHODS.values())}); unpack it by hand"
            )
        if name.lower() in names:  # some file systems take A.jpg for a.jpg
            raise DataError(f"'{archive}' holds two files called '{name}'; unpack it by hand")
        if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise DataError(
                f"'{archive}' holds a file called '{name[:40]}...', longer than a name can be; unpack it by hand"
            )
        names.add(name.lower())
        found[name] = entry
    return found
