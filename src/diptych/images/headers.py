"""Image headers: the cost of decoding an image, read before a decoder sees it.

The size that a file declares need not be the size that is decoded, and some structures cost far more than their bytes:
repeated scans of a JPEG, tiles larger than the image, millions of empty chunks that Pillow visits in Python.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator

from diptych.images.costs import MAX_PARTS, count, limit
from diptych.images.jpeg import check_jpeg
from diptych.images.tiff import check_tiff

MAX_RLE_STEPS = 16_000_000
"""Limit of pixels plus three times the bytes of a run-length encoded BMP, which Pillow decodes in Python."""


def check_structure(data: bytes) -> None:
    """Check the structure of an encoded image against this module's limits.

    Raises:
        CostlyError: a limit is exceeded.
        struct.error, IndexError: the headers are truncated.
    """
    if data.startswith(b"\xff\xd8"):
        check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        limit("chunks", count(png_chunks(data)), MAX_PARTS)
    elif data.startswith(b"GIF8"):
        limit("blocks before its first frame", count(_gif_blocks(data)), MAX_PARTS)
    elif data.startswith((b"II", b"MM")):
        check_tiff(data)
    elif data.startswith(b"BM"):
        _check_bmp(data)


# PNG, GIF, BMP

_DROPPED = (b"tEXt", b"zTXt", b"iCCP", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0\0"  # not compressed; it may hold the orientation
_MAX_XMP = 2**20
MAX_PROFILE_BYTES = 4 * 2**20
"""Larger colour profiles are ignored; those of printing presses have 0.5 to 3 MB."""


def png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end offset of each chunk."""
    offset = 8
    while offset + 8 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        yield offset, end
        offset = end


def without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile, which Pillow would unpack whatever their size; other data unchanged."""
    if not data.startswith(b"\x89PNG"):
        return data
    kept = [(offset, end) for offset, end in png_chunks(data) if not _is_text(data, offset, end)]
    whole = 8 + sum(end - offset for offset, end in kept)
    return data if whole >= len(data) else data[:8] + b"".join(data[offset:end] for offset, end in kept)


def _is_text(data: bytes, offset: int, end: int) -> bool:
    if not data.startswith(_DROPPED, offset + 4):
        return False
    return not data.startswith(b"iTXt" + _XMP, offset + 4) or end - offset > _MAX_XMP


def png_profile(data: bytes) -> bytes | None:
    """The colour profile of a PNG, unpacked; None without one, or if it is damaged or larger than 4 MiB."""
    if not data.startswith(b"\x89PNG"):
        return None
    for offset, end in png_chunks(data):
        kind = data[offset + 4 : offset + 8]
        if kind == b"IDAT":
            break
        if kind == b"iCCP":
            packed = data[offset + 8 : end - 4].partition(b"\0")[2][1:]  # after the name and the method
            with contextlib.suppress(zlib.error):
                profile = zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES + 1)
                return profile if len(profile) <= MAX_PROFILE_BYTES else None
    return None


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Offsets of the blocks before the first frame, and of stray bytes."""
    offset = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 128 else 0)
    while offset < len(data) and data[offset] not in b",;":
        yield offset
        if data[offset] == 0x21:
            offset += 2
            while offset < len(data) and data[offset]:
                yield offset
                offset += 1 + data[offset]
        offset += 1


def _check_bmp(data: bytes) -> None:
    if int.from_bytes(data[14:18], "little") < 40 or int.from_bytes(data[30:34], "little") not in (1, 2):
        return
    width, height = struct.unpack_from("<ii", data, 18)
    limit("run-length encoded pixels or bytes", abs(width * height) + 3 * len(data), MAX_RLE_STEPS)
