"""Data sets of every common format, read into `Pairs`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from diptych.data.formats.detection import Source, detect
from diptych.data.formats.encoding import wrong_encoding
from diptych.data.formats.image_paths import Pictures, home_of
from diptych.data.formats.registry import FORMATS, READERS, Format
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.images.roots import ANYWHERE, Roots
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

__all__ = ["FORMATS", "READERS", "Format", "Pictures", "Source", "detect", "read_pairs", "wrong_encoding"]


def read_pairs(
    source: str | Path, format: str | None = None, *, images: Path | None = None, roots: Roots = ANYWHERE
) -> Pairs:
    """Read a data set: a file of captions, a folder, shards (`shards-{000..003}.tar`), or a hub name (`user/name`).

    The format is recognised (`detect` says how) unless named. Pictures are looked for beside the captions, in `images/`
    and the like, or in the folder `images` alone if given. A picture that is not there keeps its row, for the doctor to
    report. Captions are stripped; empty ones stay, as "". Pictures that are not in files of their own nor in a plain
    tar (Parquet, hub, compressed shards) are copied once into the cache folder. With `roots`, no caption is read from
    outside them, whatever links lead there; whether the pictures lie inside is for the caller to check.

    Raises:
        ConfigError: there is no such format.
        DataError: nothing here is recognised, a line cannot be read, a name leads out of the pictures' folder, or the
            captions lie outside `roots`.
    """
    found = detect(source, format)
    files = [] if found.format == "hub" else found.paths
    if elsewhere := next((path for path in files if not roots.hold(path.absolute())), None):
        raise DataError(f"'{elsewhere}' leads out of the folder that is read; leave it out, or follow links")
    rows = _rows(found, images, roots)
    pairs = _read_kept(rows, found, images, roots) if FORMATS[found.format].has_pictures else Pairs.from_rows(rows)
    if not len(pairs):
        raise DataError(f"'{source}' holds no picture (read as format '{found.format}'); check the file or the format")
    return pairs


def _rows(found: Source, images: Path | None, roots: Roots) -> Iterator[Row]:
    pictures: dict[Path, Pictures] = {}
    for path in found.paths:
        beside = path if path.is_dir() else path.parent
        if beside not in pictures:
            pictures[beside] = Pictures(images) if images else Pictures.around(beside, found.folder, roots)
        yield from READERS[found.format](path, pictures[beside])


_BLOB = "pictures.bin"
_TABLE = "pairs.arrow"


def _read_kept(rows: Iterable[Row], found: Source, images: Path | None, roots: Roots) -> Pairs:
    """Pairs whose pictures lie in larger files: read once, then kept in the cache as long as the files are the same."""
    entry = cache_dir() / "pairs" / _key(found, images, roots)
    if (entry / _TABLE).exists():
        return _load(entry)
    with new_folder(entry) as folder:
        blob = folder / _BLOB
        with ExitStack() as files:
            pairs = Pairs.from_rows(rows, blobs=lambda: files.enter_context(blob.open("wb")))
        if pc.any(pc.less(pairs.table["size"], 0)).as_py() and not blob.exists():
            return pairs  # paths to pictures, which may yet be moved to where they are looked for
        table = _moved(pairs.table, str(blob), _BLOB)
        with pa.OSFile(str(folder / _TABLE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return _load(entry)


def _load(entry: Path) -> Pairs:
    with pa.OSFile(str(entry / _TABLE)) as file:
        return Pairs(_moved(pa.ipc.open_file(file).read_all(), _BLOB, str(entry / _BLOB)))


def _moved(table: pa.Table, old: str, new: str) -> pa.Table:
    paths = table["path"]
    at = table.schema.get_field_index("path")
    return table.set_column(at, table.schema.field(at), pc.if_else(pc.equal(paths, old), new, paths))


def _key(found: Source, images: Path | None, roots: Roots) -> str:
    """Names a read by its format and files (path, size, time). A hub data set is kept as first read, by its name."""
    files = [file for path in found.paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    names = [str(path) for path in found.paths]
    homes = {home_of(path.parent) for path in found.paths if found.folder is None and found.format != "hub"}
    narrowed = [] if all(map(roots.hold, homes)) else ["narrowed"]
    told = json.dumps([1, found.format, names, stats, str(images), str(found.folder), *narrowed])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]
