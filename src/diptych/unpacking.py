"""Archives of strangers, unpacked: nothing lands outside the folder, and no more than was told."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from diptych.errors import DataError
from diptych.images import PICTURE_SUFFIXES
from diptych.progress import Progress, silent

MAX_BYTES = 64 << 30  # of all files together
_LONGEST_NAME = 240  # bytes; file systems take 255, and `.part` is added
_BLOCK = 1 << 20
# What zipfile and its decompressors were seen to raise on damaged archives; ValueError: a name that is not UTF-8.
_DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error),
    *(zlib.error, lzma.LZMAError),
)
_TEXTS = (".json", ".csv", ".txt", ".jsonl", ".tsv")


def unpack(archive: Path, folder: Path, *, progress: Progress = silent, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Unpack the pictures and text files of a ZIP into `folder`, by their bare names; yields each path.

    Folders inside the archive, and everything of another kind, are left out, so no name leads anywhere else. A file
    that is there in its full size is kept.

    Raises:
        DataError: it is no ZIP or is damaged, two files in it have one name, or its files are larger than `max_bytes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source:
            entries = _entries(source, archive)
            if (size := sum(entry.file_size for entry in entries.values())) > max_bytes:
                raise DataError(f"'{archive}' holds {size:,} bytes, the limit is {max_bytes:,}; unpack it by hand")
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
    for entry in source.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/")).name
        hidden = name.startswith(".") or "__MACOSX" in entry.filename or ":" in name  # on Windows a stream of a file
        if entry.is_dir() or hidden or Path(name).suffix.lower() not in (*PICTURE_SUFFIXES, *_TEXTS):
            continue
        if name.lower() in names:  # some file systems take A.jpg for a.jpg
            raise DataError(f"'{archive}' holds two files called '{name}'; unpack it by hand")
        if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise DataError(
                f"'{archive}' holds a file called '{name[:40]}...', longer than a name can be; unpack it by hand"
            )
        names.add(name.lower())
        found[name] = entry
    return found
