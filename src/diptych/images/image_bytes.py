"""The encoded bytes of an image: read from a file, a slice of one, or given."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from diptych.errors import DataError, ImageError, NextStep
from diptych.images.roots import ANYWHERE, OUTSIDE, Roots
from diptych.runtime.files import open_file

MAX_BYTES = 256 * 2**20
"""Largest file that is read: a TIFF of 89 megapixels that is not compressed."""
MAX_UPLOAD_BYTES = 64 * 2**20
"""Largest image that is taken from a visitor, and largest file that is read while others are."""


@dataclass(frozen=True, slots=True)
class Slice:
    """An image inside a larger file, such as a tar shard: `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int


ImageSource = Path | Slice | bytes


def describe(source: ImageSource) -> str:
    """The name of an image in messages."""
    if isinstance(source, Slice):
        return f"'{readable_text(str(source.path))}' (bytes {source.offset} to {source.offset + source.size})"
    return f"an image of {len(source):,} bytes" if isinstance(source, bytes) else f"'{readable_text(str(source))}'"


def readable_text(name: str) -> str:
    r"""A file name as valid text: bytes that are not UTF-8 are written as escapes such as `\xe9`."""
    try:
        name.encode()
    except UnicodeEncodeError:  # lone surrogates, from such bytes in Python, or from JSON or Windows
        try:
            return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            return name.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
    return name


_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")  # what `readable_text` writes


def size_of(source: ImageSource) -> int:
    """The number of encoded bytes of an image; 0 for a file that cannot be looked at."""
    if isinstance(source, bytes):
        return len(source)
    try:
        return source.size if isinstance(source, Slice) else source.stat().st_size
    except (OSError, ValueError):
        return 0


def read_bytes(source: ImageSource, max_bytes: int = MAX_BYTES, roots: Roots = ANYWHERE) -> bytes:
    """The encoded bytes of an image.

    The file is opened once and judged by what was opened, so that another one which takes its name in the meantime is
    neither waited for nor read: its kind, its size, and whether it lies inside `roots` with all links followed.

    Raises:
        ImageError: `missing`, `empty`, `too_many_bytes`, `truncated` (a slice that ends beyond its file), `outside` or
            `unreadable` (a directory, a pipe, no permission).
    """
    name = describe(source)
    data, size = (source, len(source)) if isinstance(source, bytes) else _read_file(source, name, max_bytes, roots)
    if max(size, len(data)) > max_bytes:
        raise ImageError(
            "too_many_bytes", f"{name} has {size:,} bytes, the limit is {max_bytes:,}; save a smaller copy of it"
        )
    if not data:
        raise ImageError("empty", f"{name} is empty; fetch it again or remove it")
    if len(data) < size:
        raise ImageError("truncated", f"{name} ends after {len(data):,} of {size:,} bytes; fetch the file again")
    return data


def _read_file(source: Path | Slice, name: str, max_bytes: int, roots: Roots) -> tuple[bytes, int]:
    """The bytes of a file or slice, one more than `max_bytes` at most, and the size that it should have."""
    path, offset = (source.path, source.offset) if isinstance(source, Slice) else (source, 0)
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            if not roots.contains_open(status, path):
                raise outside(str(path))
            size = source.size if isinstance(source, Slice) else status.st_size
            file.seek(offset)
            most = min(size, max_bytes)  # `read` allocates as much as it is asked for, whatever the file's size
            return file.read(most if isinstance(source, Slice) else most + 1), size
    except FileNotFoundError:
        if any(map(_ESCAPED.search, path.parts)):
            raise ImageError("missing", f"{name} has a name that is not UTF-8; rename the file") from None
        raise ImageError("missing", f"{name} does not exist; check the path") from None
    except ImageError:
        raise
    except (OSError, ValueError, DataError) as error:  # ValueError: a NUL in the path, a negative offset
        raise ImageError("unreadable", f"{name} cannot be read ({error}); check its path and permissions") from error


def outside(path: str) -> ImageError:
    """The error for an image outside the folders that may be read."""
    return ImageError(
        OUTSIDE,
        f"'{readable_text(path)}' lies outside the folders that may be read; index its folder",
        steps=[NextStep("or read what links lead to", "follow_links")],
    )


def content_hash(data: bytes) -> str:
    """A hash of the bytes: 128-bit BLAKE2b, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
