"""Precomputed embeddings in clip-retrieval's layout: `img_emb/img_emb_0.npy`, `metadata/metadata_0.parquet`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.data.formats.parquet import parquet_rows, row_count
from diptych.errors import DataError, ModelError, NextStep
from diptych.images.image_bytes import outside
from diptych.images.paths import from_text, path_id, to_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.images.skipped import Skipped
from diptych.images.walk import change_time
from diptych.runtime.files import check_regular
from diptych.runtime.progress import Progress, silent
from diptych.search.add_report import AddReport
from diptych.search.rows import Row, to_table
from diptych.search.snapshot import Snapshot
from diptych.search.store import Store

Metadata = Mapping[str, Any]  # the values of a row of a metadata file

_BLOCK = 8_192
_COLUMNS = {"caption", "width", "height", "original_width", "original_height"}
_URL = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_NAMES = ("image_path", "path", "url", "key")  # columns that name an image, in order of preference


def is_embeddings(folder: Path) -> bool:
    """Whether a folder has clip-retrieval's layout."""
    return any((folder / "img_emb").glob("*.npy")) if folder.is_dir() else False


def parts(folder: Path) -> list[tuple[Path, Path]]:
    """The files of embeddings with their metadata files, in the order of their numbers.

    Raises:
        DataError: there is none, or a file of embeddings has no metadata.
    """
    files = sorted((folder / "img_emb").glob("*.npy"), key=lambda file: (len(file.stem), file.stem))
    pairs = [(file, folder / "metadata" / f"metadata_{file.stem.rpartition('_')[2]}.parquet") for file in files]
    if not pairs:
        raise DataError(f"'{folder}' has no img_emb/*.npy; give the folder that `clip-retrieval inference` wrote")
    for embeddings, metadata in pairs:
        if not metadata.is_file():
            raise DataError(f"'{embeddings}' has no metadata: '{metadata}' is missing; put it there")
    return pairs


def dimension(folder: Path) -> int:
    """The dimension of the embeddings in a folder.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    return int(_open(parts(folder)[0][0]).shape[1])


def add_embeddings(store: Store, folder: Path, *, roots: Roots = ANYWHERE, progress: Progress = silent) -> AddReport:
    """Add the embeddings in a folder to the index. The caller holds the store's lock.

    A row's path is the metadata's `image_path` (below `folder` unless it is absolute), else its `url` or `key`. Rows
    that lead out of `roots` are skipped. Rows whose path the index has are replaced if the embedding's file or the
    caption has changed. Only embeddings and metadata are read: nothing is known of the image files (`size` is -1), and
    such rows are never pruned.

    Raises:
        DataError: a file cannot be read or leads out of `roots`, or embeddings and metadata differ in length.
        ModelError: the embeddings have another dimension than the index.
    """
    began = time.perf_counter()
    pairs = parts(folder)
    if elsewhere := next((file for pair in pairs for file in pair if not roots.contains(file.absolute())), None):
        raise DataError(
            f"'{elsewhere}' is a link that leads out of the folder; replace it by what it leads to",
            steps=[NextStep("or have links followed", "follow_links")],
        )
    snapshot = Snapshot(store, captions=True)
    counts = dict.fromkeys(("new", "changed", "unchanged"), 0)
    skipped: list[Skipped] = []
    rest: Iterator[Metadata] = iter(())
    is_inside = roots.checker()
    blocks = [(pair, start) for pair in pairs for start in range(0, len(_open(pair[0])), _BLOCK)]
    for (embeddings, metadata), start in progress(blocks, len(blocks), "reading embeddings"):
        new: dict[str, Row] = {}
        changed: dict[str, Row] = {}
        if not start:
            rest = _metadata(embeddings, metadata)
        for row in _rows(store, folder, embeddings, metadata, start, rest, is_inside):
            if isinstance(row, Skipped):
                skipped.append(row)
                continue
            position = snapshot.find(row["id"])
            if row["id"] in new or row["id"] in changed or (position is None and snapshot.has_path(row["id"])):
                skipped.append(Skipped(row["path"], "repeated", f"'{metadata}' names it again; the first is kept"))
            elif position is not None and snapshot.is_unchanged(position, -1, row["mtime"], row["caption"] or ""):
                counts["unchanged"] += 1
            else:
                (new if position is None else changed)[row["id"]] = row
        counts["new"] += len(new)
        counts["changed"] += len(changed)
        if new:
            store.add(to_table([*new.values()], store.identity.dim))
            snapshot.add_written(new)
        if changed:
            store.replace(to_table([*changed.values()], store.identity.dim))
    store.finish_additions()
    return AddReport(
        new=counts["new"],
        changed=counts["changed"],
        unchanged=counts["unchanged"],
        skipped=tuple(skipped),
        seconds=time.perf_counter() - began,
    )


def _metadata(embeddings: Path, metadata: Path) -> Iterator[Metadata]:
    """The metadata rows of a file of embeddings, in order."""
    if (rows := row_count(metadata)) != (count := len(_open(embeddings))):
        raise DataError(f"'{embeddings}' has {count:,} embeddings, '{metadata}' {rows:,} rows; write both again")
    return (row for _, row in parquet_rows(metadata, lambda names: {*_NAMES, *_COLUMNS}.intersection(names)))


def _rows(
    store: Store,
    folder: Path,
    embeddings: Path,
    metadata: Path,
    start: int,
    rest: Iterator[Metadata],
    is_inside: Callable[[Path], bool],
) -> Iterator[Row | Skipped]:
    """The rows of one block of one file, whose metadata are the next items of `rest`."""
    stored = _open(embeddings)
    if stored.shape[1] != store.identity.dim:
        raise ModelError(
            f"'{embeddings}' has {stored.shape[1]} dimensions, the index '{store.folder}' {store.identity.dim}; "
            "store these in another index",
            steps=[NextStep("name its folder", "index")],
        )
    mtime = change_time(embeddings.stat())
    block = np.asarray(stored[start : start + _BLOCK], np.float32)  # (rows, dim)
    norms = np.linalg.norm(block, axis=1)
    for place, values in enumerate(islice(rest, len(block))):
        path = _path(values, folder, f"{metadata.name}:{start + place}")
        if not _URL.match(path) and not is_inside(from_text(path)):
            yield Skipped(path, OUTSIDE, str(outside(path)))
            continue
        if not np.isfinite(norms[place]) or norms[place] == 0:
            yield Skipped(path, "not_a_vector", f"row {start + place} of '{embeddings}' is zero or not finite")
            continue
        yield {
            **{"id": path_id(path), "hash": "", "path": path, "folder": path.rpartition("/")[0] or "/"},
            **{"size": -1, "mtime": mtime, "vector": block[place] / norms[place]},
            **{"caption": _caption(values), "width": _side(values, "width"), "height": _side(values, "height")},
        }


def _open(file: Path) -> NDArray[np.floating]:
    check_regular(file)
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"'{file}' is not an array of embeddings ({error}); write it again") from error
    if stored.ndim != 2 or stored.dtype.kind != "f":
        raise DataError(
            f"'{file}' holds {stored.dtype} of shape {stored.shape}; embeddings are floats of shape (images, dim)"
        )
    return stored


def _path(values: Metadata, folder: Path, default: str) -> str:
    for name in _NAMES:
        value = values.get(name)
        if value not in (None, ""):
            text = str(value)
            return text if _URL.match(text) else to_text(os.path.normpath(folder.resolve() / text))
    return to_text(folder.resolve() / default)


def _caption(values: Metadata) -> str | None:
    caption = values.get("caption")
    return " ".join(caption.split()) or None if isinstance(caption, str) else None


def _side(values: Metadata, name: str) -> int | None:
    side = values.get(f"original_{name}", values.get(name))
    return int(side) if isinstance(side, int | float) and 0 < side < 2**31 else None
