"""Paths as text that a table can hold, byte for byte, and back again to the picture that lies there."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from diptych.errors import DataError, ImageError
from diptych.formats import read_pairs
from diptych.formats.shards import SHARD_SUFFIXES
from diptych.formats.tar import members
from diptych.images import Picture, Slice, content_hash, read_bytes
from diptych.roots import ANYWHERE, OUTSIDE, Roots

# A name's byte that is not UTF-8 reads in Python as a lone surrogate, U+DC80 to U+DCFF, which no table can hold.
# It is kept as one of the last 128 private code points. A name that truly contains one of those is spelt by its bytes,
# all of which are above 0x7F, so that every name comes back byte for byte.
_FIRST_BYTE, _FIRST_PRIVATE = 0xDC80, 0x10FF80
_BYTES = {_FIRST_BYTE + at: _FIRST_PRIVATE + at for at in range(128)}
_BACK = {private: byte for byte, private in _BYTES.items()}
_PRIVATE = re.compile("[\U0010ff80-\U0010ffff]")
_SHARD = ".tar"


def to_text(path: str | Path) -> str:
    """A path as valid text with forward slashes; undecodable bytes of names become private code points.

    Raises:
        ValueError: the name holds a surrogate that stands for no byte, as a name on Windows may.
    """
    name = os.fspath(path)
    name = _PRIVATE.sub(lambda found: found[0].encode().decode("ascii", "surrogateescape"), name)
    text = name.translate(_BYTES)
    text.encode()  # UnicodeEncodeError is a ValueError
    return text.replace(os.sep, "/")


def from_text(text: str) -> Path:
    """The path that `to_text` made `text` of."""
    return Path(text.translate(_BACK))


def path_id(text: str) -> str:
    """The id of the row for a path as text: 32 hex digits, the same in every index."""
    return content_hash(text.encode())


def picture_at(text: str, roots: Roots = ANYWHERE) -> Picture:
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
    """The encoded bytes of the picture of a row's `path`; raises as `picture_at` and `read_bytes` do.

    The path is checked again when its file has been read: a link may have taken its place in between.
    """
    data = read_bytes(picture_at(text, roots))
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
