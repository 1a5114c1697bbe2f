"""The image of a stored path: a file, or a member of a tar shard or Parquet file."""

from __future__ import annotations

import functools
from pathlib import Path

from diptych.data.formats.read import read_pairs
from diptych.data.formats.shards import SHARD_SUFFIXES
from diptych.data.formats.tar import members
from diptych.errors import DataError, ImageError
from diptych.images.decode import Picture, Slice, read_bytes
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots

_SHARD = ".tar"


def image_at(text: str, roots: Roots = ANYWHERE) -> Picture:
    """The picture of a row's `path`: a file, or one inside a larger file (`shard.tar/member`), by its real path.

    Raises:
        ImageError: `missing` - the file, or the picture in it, is no longer there; `unreadable` - its file is damaged;
            `outside` - it lies outside `roots`.
    """
    path = roots.real(from_text(text))
    if path is None:
        raise outside(text)
    if path.is_file():
        return path
    for parent in path.parents:
        if parent.is_file():
            stat = parent.stat()
            inside = tar_members if parent.suffix.lower() == _SHARD else _packed
            found = inside(parent, stat.st_size, stat.st_mtime_ns).get(path.relative_to(parent).as_posix())
            if found is not None:
                return found
    raise ImageError("missing", f"'{path}' is no longer there; `diptych index --prune` takes it out of the index")


def read_at(text: str, roots: Roots) -> bytes:
    """The encoded bytes of the picture of a row's `path`; raises as `image_at` and `read_bytes` do.

    The path is checked again when its file has been read: a link may have taken its place in between.
    """
    data = read_bytes(image_at(text, roots))
    if not roots.hold(from_text(text)):
        raise outside(text)
    return data


def outside(text: str) -> ImageError:
    """The error of a picture that may not be read."""
    return ImageError(
        OUTSIDE, f"'{from_text(text)}' lies outside the folders that may be read; add its folder, or follow links"
    )


@functools.lru_cache(maxsize=4)
def _packed(container: Path, size: int, mtime: int) -> dict[str, Picture]:
    """The pictures of a Parquet file or a compressed shard by their ids; read once, then kept in the cache folder.

    Those that it merely names by paths are none of its own.
    """
    if not container.name.lower().endswith((*SHARD_SUFFIXES, ".parquet")):
        return {}
    try:
        rows = read_pairs(container)
        return {row.image_id: row.image for row in rows if not isinstance(row.image, Path)}
    except DataError as error:
        raise ImageError("unreadable", f"the pictures of '{container}' cannot be read ({error})") from error


@functools.lru_cache(maxsize=64)
def tar_members(shard: Path, size: int, mtime: int) -> dict[str, Slice]:
    """Where the members of an uncompressed tar lie, by name; `size` and `mtime` are those of the file, to tell it anew.

    Raises:
        ImageError: `unreadable` - it is no whole tar file.
    """
    try:
        return {member.name.removeprefix("./"): Slice(shard, member.offset, member.size) for member in members(shard)}
    except (DataError, OSError) as error:
        raise ImageError("unreadable", str(error)) from error
