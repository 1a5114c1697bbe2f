"""One pass over the pictures of a data set: does each decode, and what are its hashes. Kept in the cache folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from diptych.data.pairs import Pairs
from diptych.errors import ImageError
from diptych.images.decode import MAX_PIXELS, Picture, content_hash, decode, perceptual_hash, read_bytes
from diptych.runtime.atomic import new_folder
from diptych.runtime.background import prefetch
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

_FILE = "checks.arrow"
_VERSION = 1  # raise it when a check or a hash changes, so that older results are not used
_HASHED_SIDE = 64  # enough for a hash of 9 x 8 greys; even a JPEG at 1/8 is read to its end, so a cut is seen
_COLUMNS = pa.schema(
    {
        "reason": pa.string(),  # of ImageError; "" for a sound picture
        "detail": pa.string(),
        "content": pa.string(),  # content hash; "" where the bytes could not be read
        "perceptual": pa.uint64(),  # 0 for a picture that is not sound
    }
)

Check = tuple[str, str, str, int]


def check_pictures(pairs: Pairs, *, max_pixels: int = MAX_PIXELS, progress: Progress = silent) -> pa.Table:
    """Reason, detail, content hash and perceptual hash of every picture, in row order.

    Each picture is decoded once, in a few threads, and let go at once. The result is kept under the fingerprint of the
    data set, so that it is made anew only when a file changed; it is not kept if some file could not be read, for that
    may pass.
    """
    entry = cache_dir() / "checks" / f"{pairs.fingerprint()}-{max_pixels}-{_VERSION}"
    kept = entry / _FILE
    if kept.exists():
        with pa.OSFile(str(kept)) as file:
            return pa.ipc.open_file(file).read_all()

    def check(picture: Picture) -> Check:
        return check_picture(picture, max_pixels)

    results = progress(prefetch((row.image for row in pairs), check), len(pairs), "checking pictures")
    columns: dict[str, list] = {name: [] for name in _COLUMNS.names}
    for result in results:
        for name, value in zip(_COLUMNS.names, result, strict=True):
            columns[name].append(value)
    table = pa.table(columns, schema=_COLUMNS)
    if "unreadable" not in columns["reason"]:
        _keep(table, entry)
    return table


def _keep(table: pa.Table, entry: Path) -> None:
    with (
        new_folder(entry) as folder,
        pa.OSFile(str(folder / _FILE), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def check_picture(picture: Picture, max_pixels: int = MAX_PIXELS) -> Check:
    """Read and decode one picture: reason ("" if it is sound), detail, content hash, perceptual hash."""
    content = ""
    try:
        data = read_bytes(picture)
        content = content_hash(data)
        image = decode(data, max_pixels=max_pixels, min_side=_HASHED_SIDE)
    except ImageError as error:
        return error.reason, str(error), content, 0
    return "", "", content, perceptual_hash(image)
