"""The image of a stored path: a file, or a member of a tar shard or Parquet file."""

from __future__ import annotations

import functools
from pathlib import Path

from diptych.data.formats.read import read_pairs
from diptych.data.formats.shards import SHARD_SUFFIXES
from diptych.data.formats.tar import members
from diptych.errors import DataError, ImageError
from diptych.images.decode import ImageSource, Slice, read_bytes
from diptych.images.image_bytes import outside
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, Roots

_SHARD = ".tar"


def image_at(text: str, roots: Roots = ANYWHERE) -> ImageSource:
    """The image stored under `path`, with links resolved: a file, or a member of a container (`shard.tar/member`).

    Raises:
        ImageError: `missing` - the file or the member no longer exists; `unreadable` - the container is damaged;
            `outside` - the path lies outside `roots`.
    """
    path = roots.real(from_text(text))
    if path is None:
        raise outside(str(from_text(text)))
    if path.is_file():
        return path
    for parent in path.parents:
        if parent.is_file():
            stat = parent.stat()
            inside = tar_members if parent.suffix.lower() == _SHARD else _packed
            image = inside(parent, stat.st_size, stat.st_mtime_ns).get(path.relative_to(parent).as_posix())
            if image is not None:
                return image
    raise ImageError("missing", f"'{path}' no longer exists; `diptych index --prune` removes it from the index")


def read_at(text: str, roots: Roots) -> bytes:
    """The encoded bytes of the image stored under `path`. Raises what `image_at` and `read_bytes` raise.

    The file that is opened must lie inside the roots, even if a link has replaced it since it was found.
    """
    return read_bytes(image_at(text, roots), roots=roots)


@functools.lru_cache(maxsize=4)
def _packed(container: Path, _size: int, _mtime: int) -> dict[str, ImageSource]:
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
def tar_members(shard: Path, _size: int, _mtime: int) -> dict[str, Slice]:
    """The byte ranges of the members of an uncompressed tar file, by name.

    `_size` and `_mtime` are those of the file: they make the cached result stale when it changes.

    Raises:
        ImageError: `unreadable` - the file is not a complete tar file.
    """
    try:
        return {member.name.removeprefix("./"): Slice(shard, member.offset, member.size) for member in members(shard)}
    except (DataError, OSError) as error:
        raise ImageError("unreadable", str(error)) from error
