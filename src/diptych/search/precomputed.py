"""Vectors made elsewhere, as clip-retrieval writes them: `img_emb/img_emb_0.npy`, `metadata/metadata_0.parquet`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.containers import outside
from diptych.data.formats.parquet import parquet_rows, row_count
from diptych.errors import DataError, ModelError
from diptych.images.paths import from_text, path_id, to_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.images.skipped import Skipped
from diptych.images.walk import change_time
from diptych.runtime.files import check_regular
from diptych.runtime.progress import Progress, silent
from diptych.search.add_report import Added
from diptych.search.inventory import Known
from diptych.search.rows import Row, to_table
from diptych.search.store import Store

_BLOCK = 8_192
_READ = {"caption", "width", "height", "original_width", "original_height"}
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_NAMES = ("image_path", "path", "url", "key")  # of what a picture is called in the metadata, in order of preference


def is_vectors(folder: Path) -> bool:
    """Whether a folder has the layout."""
    return any((folder / "img_emb").glob("*.npy")) if folder.is_dir() else False


def parts(folder: Path) -> list[tuple[Path, Path]]:
    """The files of vectors with their metadata, in the order of their numbers.

    Raises:
        DataError: there is none, or a file of vectors has no metadata.
    """
    found = sorted((folder / "img_emb").glob("*.npy"), key=lambda file: (len(file.stem), file.stem))
    pairs = [(file, folder / "metadata" / f"metadata_{file.stem.rpartition('_')[2]}.parquet") for file in found]
    if not pairs:
        raise DataError(f"'{folder}' has no img_emb/*.npy; give the folder that `clip-retrieval inference` wrote")
    for vectors, metadata in pairs:
        if not metadata.is_file():
            raise DataError(f"'{vectors}' has no metadata: '{metadata}' is missing; put it there")
    return pairs


def dimension(folder: Path) -> int:
    """The dimension of the vectors in a folder."""
    return int(_open(parts(folder)[0][0]).shape[1])


def add_vectors(store: Store, folder: Path, *, roots: Roots = ANYWHERE, progress: Progress = silent) -> Added:
    """Bring the vectors of a folder into the index; call it under the store's lock.

    A row's path is the metadata's `image_path`, below `folder` unless it is absolute, else its `url` or `key`. One that
    leads out of `roots` is skipped, as are files of vectors and metadata that do. Rows
    that the index has by that path are replaced where vector or caption is another. Nothing is read but vectors and
    metadata, so nothing is known of the files themselves (`size` is -1), and they are never pruned.

    Raises:
        DataError: a file cannot be read, or vectors and metadata differ in length.
        ModelError: the vectors have another dimension than the index.
    """
    began = time.perf_counter()
    pairs = parts(folder)
    if elsewhere := next((file for pair in pairs for file in pair if not roots.hold(file.absolute())), None):
        raise DataError(f"'{elsewhere}' is a link that leads out of the folder that is read; --follow-links reads it")
    known = Known(store, captions=True)
    counts = dict.fromkeys(("new", "changed", "unchanged"), 0)
    skipped: list[Skipped] = []
    told: Iterator[dict[str, Any]] = iter(())
    lies_inside = roots.checker()
    blocks = [(pair, at) for pair in pairs for at in range(0, len(_open(pair[0])), _BLOCK)]
    for (vectors, metadata), at in progress(blocks, len(blocks), "reading vectors"):
        fresh: dict[str, Row] = {}
        changed: dict[str, Row] = {}
        if not at:
            told = _metadata(vectors, metadata)
        for row in _rows(store, folder, vectors, metadata, at, told, lies_inside):
            if isinstance(row, Skipped):
                skipped.append(row)
                continue
            place = known.find(row["id"])
            if row["id"] in fresh or row["id"] in changed or (place is None and known.holds(row["id"])):
                skipped.append(Skipped(row["path"], "repeated", f"'{metadata}' names it again; the first is kept"))
            elif place is not None and known.is_unchanged(place, -1, row["mtime"], row["caption"] or ""):
                counts["unchanged"] += 1
            else:
                (fresh if place is None else changed)[row["id"]] = row
        counts["new"] += len(fresh)
        counts["changed"] += len(changed)
        if fresh:
            store.add(to_table([*fresh.values()], store.identity.dim))
            known.note_written(fresh)
        if changed:
            store.replace(to_table([*changed.values()], store.identity.dim))
    store.settle()
    return Added(**counts, skipped=tuple(skipped), seconds=time.perf_counter() - began)


def _metadata(vectors: Path, metadata: Path) -> Iterator[dict[str, Any]]:
    """The metadata of a file of vectors, one after the other."""
    if (rows := row_count(metadata)) != (count := len(_open(vectors))):
        raise DataError(f"'{vectors}' has {count:,} vectors, '{metadata}' {rows:,} rows; make both again")
    return (told for _, told in parquet_rows(metadata, lambda names: {*_NAMES, *_READ}.intersection(names)))


def _rows(
    store: Store,
    folder: Path,
    vectors: Path,
    metadata: Path,
    start: int,
    rest: Iterator[dict[str, Any]],
    lies_inside: Callable[[Path], bool],
) -> Iterator[Row | Skipped]:
    """The rows of one block of one file; their metadata are the next of `rest`."""
    stored = _open(vectors)
    if stored.shape[1] != store.identity.dim:
        raise ModelError(
            f"'{vectors}' has {stored.shape[1]} dimensions, the index '{store.folder}' {store.identity.dim}; "
            "make another index with --index FOLDER"
        )
    mtime = change_time(vectors.stat())
    block = np.asarray(stored[start : start + _BLOCK], np.float32)  # (rows, dim)
    norms = np.linalg.norm(block, axis=1)
    for at, told in enumerate(islice(rest, len(block))):
        path = _path(told, folder, f"{metadata.name}:{start + at}")
        if not _URL.match(path) and not lies_inside(from_text(path)):
            yield Skipped(path, OUTSIDE, str(outside(path)))
            continue
        if not np.isfinite(norms[at]) or norms[at] == 0:
            yield Skipped(path, "not_a_vector", f"row {start + at} of '{vectors}' is zero or not finite")
            continue
        yield {
            **{"id": path_id(path), "hash": "", "path": path, "folder": path.rpartition("/")[0] or "/"},
            **{"size": -1, "mtime": mtime, "vector": block[at] / norms[at]},
            **{"caption": _caption(told), "width": _side(told, "width"), "height": _side(told, "height")},
        }


def _open(file: Path) -> np.ndarray:
    check_regular(file)
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"'{file}' is no array of vectors ({error}); make it again") from error
    if stored.ndim != 2 or stored.dtype.kind != "f":
        raise DataError(f"'{file}' holds {stored.dtype} of shape {stored.shape}; vectors are floats of (pictures, dim)")
    return stored


def _path(told: dict[str, Any], folder: Path, otherwise: str) -> str:
    for name in _NAMES:
        value = told.get(name)
        if value not in (None, ""):
            text = str(value)
            return text if _URL.match(text) else to_text(os.path.normpath(folder.resolve() / text))
    return to_text(folder.resolve() / otherwise)


def _caption(told: dict[str, Any]) -> str | None:
    value = told.get("caption")
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _side(told: dict[str, Any], name: str) -> int | None:
    value = told.get(f"original_{name}", told.get(name))
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else None
