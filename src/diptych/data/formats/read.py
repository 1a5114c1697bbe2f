"""`read_pairs`: reads a data set in any supported format into `Pairs`, and caches embedded images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from diptych.data.formats.detection import Source, detect
from diptych.data.formats.encoding import split_in_name, wrong_encoding
from diptych.data.formats.image_paths import ImagePaths, ambiguous_path, home_of, is_exact, outside_error
from diptych.data.formats.registry import FORMATS, READERS, Format
from diptych.data.pairs import Pairs, Row, canonical_split
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.roots import ANYWHERE, Roots
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

__all__ = [
    "FORMATS",
    "READERS",
    "Format",
    "ImagePaths",
    "Source",
    "detect",
    "read_pairs",
    "settled",
    "settled_rows",
    "wrong_encoding",
]


def read_pairs(
    source: str | Path, format: str | None = None, *, images: Path | None = None, roots: Roots = ANYWHERE
) -> Pairs:
    """Read a data set: a caption file, a folder, shards (`shards-{000..003}.tar`), or a hub name (`user/name`).

    The format is detected (see `detect`) unless `format` is given. Image files are looked up next to the captions and
    in folders such as `images/`, or only in the folder `images` if given. A row whose image file does not exist is
    kept, and reported by the doctor. Captions are stripped; empty captions are kept as "". Images embedded in Parquet
    files, compressed shards or hub data sets are copied once into the cache folder. With `roots`, captions outside
    these folders are refused, also through links; checking the image paths is up to the caller.

    Raises:
        ConfigError: the format is unknown.
        DataError: no format is detected, a line is invalid, an image name leads out of the image folders, or the
            captions lie outside `roots`.
    """
    detected = detect(source, format)
    files = [] if detected.format == "hub" else detected.paths
    if outside := next((path for path in files if not roots.contains(path.absolute())), None):
        raise DataError(f"'{outside}' leads out of the folder that is read; leave it out, or follow links")
    notes = ReadingNotes()
    rows = _rows(detected, images, roots, notes)
    has_images = FORMATS[detected.format].has_images
    pairs = _read_cached(rows, detected, images, roots, notes) if has_images else settled(rows, notes)
    if not len(pairs):
        raise DataError(f"'{source}' contains no images (read as format '{detected.format}'); check file and format")
    return pairs


def settled(
    rows: Iterable[Row], notes: ReadingNotes | None = None, blobs: Callable[[], BinaryIO] | None = None
) -> Pairs:
    """Build a data set from the rows of a reader, and settle what only all rows together show.

    Of several names that lead to one file, those that are not literally that file lose it: their images are missing.
    Without any splits, the folders in the names give them (see `folder_splits`).

    Args:
        rows: the rows of one or more files.
        notes: the notes that the reader and its `ImagePaths` take.
        blobs: as for `Pairs.from_rows`.

    Raises:
        DataError: a name leads out of the image folders, and no name of that kind was found below them.
    """
    notes = notes if notes is not None else ReadingNotes()
    pairs = Pairs.from_rows(rows, blobs, notes)
    if notes.outside and not notes.relocated:
        raise outside_error(notes.outside)
    return folder_splits(without_shared_guesses(pairs, notes)).with_notes(notes)


def without_shared_guesses(pairs: Pairs, notes: ReadingNotes) -> Pairs:
    """The data set without files that several names share and that not all of them name literally.

    The images of the other names have no file then, and are counted as `shared_files`.
    """
    counts = pc.value_counts(pairs.table["path"])
    shared = {
        path
        for path, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
        if count > 1 and path in notes.guessed
    }
    if not shared:
        return pairs
    paths = []
    for image_id, path in zip(pairs.values("image_id"), pairs.values("path"), strict=True):
        if path in shared and not is_exact(path, image_id):
            notes.add("shared_files", image_id, _SHARED.format(path))
            path = ambiguous_path(Path(path).parent, image_id)
        paths.append(path)
    return pairs.with_column("path", paths)


def settled_rows(rows: Iterable[Row], notes: ReadingNotes) -> list[Row]:
    """The rows of a table in its order, settled as by `settled`, but not merged by id and without splits.

    Raises:
        DataError: as `settled`.
    """
    listed = list(rows)
    if notes.outside and not notes.relocated:
        raise outside_error(notes.outside)
    names: dict[str, set[str]] = {}  # of each guessed file
    for row in listed:
        if isinstance(row.image, Path) and (path := str(row.image)) in notes.guessed:
            names.setdefault(path, set()).add(row.image_id)
    return [_with_own_file(row, names, notes) for row in listed]


def _with_own_file(row: Row, names: dict[str, set[str]], notes: ReadingNotes) -> Row:
    path = str(row.image) if isinstance(row.image, Path) else ""
    if len(names.get(path, ())) < 2 or is_exact(path, row.image_id):
        return row
    notes.add("shared_files", row.image_id, _SHARED.format(path))
    return replace(row, image=Path(ambiguous_path(Path(path).parent, row.image_id)))


_SHARED = "another name leads to the only file that fits it, '{}'"


def folder_splits(pairs: Pairs) -> Pairs:
    """Take the splits of a data set without any from folders such as `train` and `test` in the image names.

    As in the image folders of `datasets`, the first folder with the name of a split counts. It must be in every name,
    or there must be at least two splits: a single folder "train" among others may as well be a class of images.
    """
    if any(split is not None for split in pairs.values("split")):
        return pairs
    splits = [split_in_name(image_id) for image_id in pairs.values("image_id")]
    if None in splits and len({canonical_split(split) for split in splits if split}) < 2:
        return pairs
    return pairs.with_column("split", [canonical_split(split) if split else None for split in splits])


def _rows(detected: Source, images: Path | None, roots: Roots, notes: ReadingNotes) -> Iterator[Row]:
    resolvers: dict[Path, ImagePaths] = {}
    for path in detected.paths:
        parent = path if path.is_dir() else path.parent
        if parent not in resolvers:
            resolvers[parent] = (
                ImagePaths(images, notes=notes) if images else ImagePaths.around(parent, detected.folder, roots, notes)
            )
        yield from READERS[detected.format](path, resolvers[parent])


_BLOB = "pictures.bin"
_TABLE = "pairs.arrow"


def _read_cached(
    rows: Iterable[Row], detected: Source, images: Path | None, roots: Roots, notes: ReadingNotes
) -> Pairs:
    """Pairs with embedded images, stored in the cache and reused until the source files change."""
    entry = cache_dir() / "pairs" / _key(detected, images, roots)
    if (entry / _TABLE).exists():
        return _load(entry)
    with new_folder(entry) as folder:
        blob = folder / _BLOB
        with ExitStack() as files:
            pairs = settled(rows, notes, lambda: files.enter_context(blob.open("wb")))
        if pc.any(pc.less(pairs.table["size"], 0)).as_py() and not blob.exists():
            return pairs  # not cached: the lookup of image files may have another result later
        table = _with_path(pairs.table, str(blob), _BLOB)
        with pa.OSFile(str(folder / _TABLE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return _load(entry)


def _load(entry: Path) -> Pairs:
    with pa.OSFile(str(entry / _TABLE)) as file:
        return Pairs(_with_path(pa.ipc.open_file(file).read_all(), _BLOB, str(entry / _BLOB)))


def _with_path(table: pa.Table, old: str, new: str) -> pa.Table:
    """Replace the path of embedded images: relative in the cache, absolute in memory."""
    paths = table["path"]
    index = table.schema.get_field_index("path")
    return table.set_column(index, table.schema.field(index), pc.if_else(pc.equal(paths, old), new, paths))


def _key(detected: Source, images: Path | None, roots: Roots) -> str:
    """The cache key: format and files (path, size, modification time); for a hub data set, its name."""
    files = [file for path in detected.paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    names = [str(path) for path in detected.paths]
    homes = {home_of(path.parent) for path in detected.paths if detected.folder is None and detected.format != "hub"}
    narrowed = [] if all(map(roots.contains, homes)) else ["narrowed"]
    key = json.dumps([3, detected.format, names, stats, str(images), str(detected.folder), *narrowed])
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
