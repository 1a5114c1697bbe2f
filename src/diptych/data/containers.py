"""The image of a stored path: a file, or a member of a tar shard or Parquet file."""

from __future__ import annotations

import functools
from pathlib import Path

from diptych.data.formats.read import read_pairs
from diptych.data.formats.shards import SHARD_SUFFIXES
from diptych.data.formats.tar import members
from diptych.errors import DataError, ImageError, NextStep
from diptych.images.decode import ImageSource, Slice, read_bytes
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots

_SHARD = ".tar"


def image_at(text: str, roots: Roots = ANYWHERE) -> ImageSource:
    """The image stored under `path`, with links resolved: a file, or a member of a container (`shard.tar/member`).

    Raises:
        ImageError: `missing` - the file or the member no longer exists; `unreadable` - the container is damaged;
            `outside` - the path lies outside `roots`.
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
    raise ImageError("missing", f"'{path}' no longer exists; `diptych index --prune` removes it from the index")


def read_at(text: str, roots: Roots) -> bytes:
    """The encoded bytes of the image stored under `path`. Raises what `image_at` and `read_bytes` raise.

    The path is checked again after the file was read, in case a link replaced it in between.
    """
    data = read_bytes(image_at(text, roots))
    if not roots.contains(from_text(text)):
        raise outside(text)
    return data


def outside(text: str) -> ImageError:
    """The error for an image outside the folders that may be read."""
    return ImageError(
        OUTSIDE,
        f"'{from_text(text)}' lies outside the folders that may be read; index its folder",
        steps=[NextStep("or read what links lead to", "follow_links")],
    )


@functools.lru_cache(maxsize=4)
def _packed(container: Path, size: int, mtime: int) -> dict[str, ImageSource]:
    """The images of a Parquet file or compressed shard by their ids; unpacked once into the cache folder.

    Images that it only references by path are left out.
    """
    if not container.name.lower().endswith((*SHARD_SUFFIXES, ".parquet", ".arrow")):
        return {}
    try:
        rows = read_pairs(container)
        return {row.image_id: row.image for row in rows if not isinstance(row.image, Path)}
    except DataError as error:
        raise ImageError("unreadable", f"the images of '{container}' cannot be read ({error})") from error


@functools.lru_cache(maxsize=64)
def tar_members(shard: Path, size: int, mtime: int) -> dict[str, Slice]:
    """The byte ranges of the members of an uncompressed tar file, by name.

    `size` and `mtime` are those of the file: they make the cached result stale when it changes.

    Raises:
        ImageError: `unreadable` - the file is not a complete tar file.
    """
    try:
        return {member.name.removeprefix("./"): Slice(shard, member.offset, member.size) for member in members(shard)}
    except (DataError, OSError) as error:
        raise ImageError("unreadable", str(error)) from error
