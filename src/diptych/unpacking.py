"""Archives of strangers, unpacked: nothing lands outside the folder, and no more than was told."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from diptych.errors import DataError
from diptych.images import PICTURE_SUFFIXES
from diptych.progress import Progress, silent

MAX_BYTES = 64 << 30  # of all files together
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
                        shutil.copyfileobj(packed, sink)
                    part.replace(target)
                yield target
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise DataError(f"'{archive}' cannot be unpacked ({error}); remove it and fetch it again") from error


def _entries(source: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in source.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/")).name
        hidden = name.startswith(".") or "__MACOSX" in entry.filename
        if entry.is_dir() or hidden or Path(name).suffix.lower() not in (*PICTURE_SUFFIXES, *_TEXTS):
            continue
        if name in found:
            raise DataError(f"'{archive}' holds two files called '{name}'; unpack it by hand")
        found[name] = entry
    return found
