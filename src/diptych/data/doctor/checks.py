"""Image checks: decodes and hashes every image of a data set once, and caches the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.data.pairs import Pairs
from diptych.errors import ImageError
from diptych.images.decode import (
    MAX_PIXELS,
    ImageSource,
    content_hash,
    decode,
    memory_for,
    perceptual_hash,
    read_bytes,
)
from diptych.runtime.atomic import new_folder
from diptych.runtime.background import prefetch
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

_FILE = "checks.arrow"
_VERSION = 3  # increase when a check, hash or message changes, to invalidate cached results
_HASHED_SIDE = 64  # enough for the 9 x 8 hash; a JPEG decoded at 1/8 is still read to its end, so truncation shows
_COLUMNS = pa.schema(
    {
        "reason": pa.string(),  # `ImageError.reason`; "" for a valid image
        "detail": pa.string(),
        "content": pa.string(),  # content hash; "" if the file could not be read
        "perceptual": pa.uint64(),  # perceptual hash; 0 for an invalid image
    }
)

Check = tuple[str, str, str, int]  # a row of `_COLUMNS`


def check_images(pairs: Pairs, *, max_pixels: int = MAX_PIXELS, progress: Progress = silent) -> pa.Table:
    """Reason, detail, content hash and perceptual hash of every image, in row order.

    Images are decoded in a few threads and not kept in memory. The result is cached under the fingerprint of the data
    set, except when a file could not be read, since that may be temporary.
    """
    entry = cache_dir() / "checks" / f"{pairs.fingerprint()}-{max_pixels}-{_VERSION}"
    cached = entry / _FILE
    if cached.exists():
        with pa.OSFile(str(cached)) as file:
            return pa.ipc.open_file(file).read_all()

    def check(image: ImageSource) -> Check:
        return check_image(image, max_pixels)

    results = progress(prefetch((row.image for row in pairs), check), len(pairs), "checking images")
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS.names}
    for result in results:
        for name, value in zip(_COLUMNS.names, result, strict=True):
            columns[name].append(value)
    table = pa.table(columns, schema=_COLUMNS)
    if "unreadable" not in columns["reason"]:
        _store(table, entry)
    return table


def _store(table: pa.Table, entry: Path) -> None:
    with (
        new_folder(entry) as folder,
        pa.OSFile(str(folder / _FILE), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def check_image(image: ImageSource, max_pixels: int = MAX_PIXELS) -> Check:
    """Read and decode one image: reason ("" if it is valid), detail, content hash, perceptual hash."""
    content = ""
    try:
        with memory_for(image):
            data = read_bytes(image)
            content = content_hash(data)
            decoded = decode(data, max_pixels=max_pixels, min_side=_HASHED_SIDE)
    except ImageError as error:
        return error.reason, str(error), content, 0
    return "", "", content, perceptual_hash(decoded)
