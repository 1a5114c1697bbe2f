"""TIFF files: the cost of decoding them, and corrections to how Pillow decodes them."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile, TiffImagePlugin

from diptych.images.costs import MAX_PARTS, limit
from diptych.images.jpeg import SCAN_PIXELS

MAX_VALUES = 262_144
"""Limit of numbers in a TIFF tag; the transfer function of 16-bit colours has 196,608."""

# Offsets and sizes of strips and tiles, each of which Pillow decodes in a call of its own.
_PLACES = (273, 279, 324, 325)


def check_tiff(data: bytes) -> None:
    """Check the numbers of tags and of their values.

    Raises:
        CostlyError: there are too many.
        struct.error: the headers are truncated.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
    limit("tags", entries, MAX_PARTS)
    form, offset = order + ("HHQ8x" if big else "HHI4x"), offset + (8 if big else 2)
    values: dict[int, int] = {}
    for tag, kind, count in struct.iter_unpack(form, data[offset : offset + entries * struct.calcsize(form)]):
        if kind not in (1, 2, 7):  # bytes and texts are not converted to numbers
            limit(f"values in tag {tag}", count, MAX_PARTS if tag in _PLACES else MAX_VALUES)
        values[tag] = count


def check_strips(data: bytes, offsets: Sequence[int], sizes: Sequence[int], pixels: int) -> None:
    """Check strips or tiles of `pixels` each, whose content is JPEG, for overlaps and numbers of scans.

    Raises:
        CostlyError: they overlap, or have too many scans.
    """
    limit("bytes in overlapping strips", sum(sizes), 2 * len(data))
    scans = sum(data.count(b"\xff\xda", start, start + size) for start, size in zip(offsets, sizes, strict=False))
    limit(f"JPEG scans of {pixels:,} pixels", scans, SCAN_PIXELS // max(1, pixels))


def tiff_cost(data: bytes, image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """The pixels of all tiles or strips, padding included, and the bytes of one of them."""
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    tiled = TiffImagePlugin.TILEOFFSETS in tags
    if tiled:
        width, height = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
    else:
        width, height = image.width, min(image.height, tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height))
    width, height = max(1, width), max(1, height)  # a TypeError for what is no number
    if tags.get(TiffImagePlugin.COMPRESSION) in (6, 7):
        places = (324, 325) if tiled else (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS)
        offsets, sizes = (tags.get(tag, ()) for tag in places)
        check_strips(data, offsets, sizes, width * height)
    columns, rows = -(-image.width // width), -(-image.height // height)
    samples = max(len(bits), tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    coded = columns * rows * width * height if tiled else image.width * image.height
    return coded, width * height * samples * max(bits) // 8


# Big-endian greys of 16 bits whose white is 0: Pillow has the little-endian entry only.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


def mend_tiles(image: TiffImagePlugin.TiffImageFile) -> None:
    """Set right how Pillow 13 would unpack the values of a few files, before they are loaded.

    Planes of 16 bits that are not compressed would be read as 8 bits, and values that libtiff unpacks, which have the
    byte order of the machine, in that of the file.
    """
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if image.use_load_libtiff:
        image.tile = [tile._replace(args=_native(tile.args)) for tile in image.tile]
    elif image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and max(bits) == 16:
        premultiplied = image.tag_v2.get(TiffImagePlugin.EXTRASAMPLES) == (1,)
        raw_mode = f"{'RGBa' if premultiplied else image.mode};16N"
        image.tile = [ImageFile._Tile("libtiff", (0, 0, *image.size), 0, (raw_mode, False, image.tag_v2.offset))]
        image.use_load_libtiff = True


def _native(arguments: tuple[Any, ...] | str | None) -> tuple[Any, ...] | str | None:
    """Arguments of Pillow's libtiff decoder in the byte order of the machine: a raw mode `F;32BF` becomes `F;32NF`."""
    if not isinstance(arguments, tuple):
        return arguments
    return re.sub(r"^([IF];\d\d)B", r"\1N", arguments[0]), *arguments[1:]


@dataclass(frozen=True, slots=True)
class GreyValues:
    """How to read the greys of types that are wider than 8 bits: their white, and what Pillow leaves as it is."""

    peak: float = 65535.0
    white_is_zero: bool = False
    is_unsigned: bool = False


def grey_values(image: Image.Image) -> GreyValues:
    """How to read the greys of an image, by the tags of a TIFF; other formats have whole 16 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith(("I", "F")):
        return GreyValues()
    tags = image.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,)))
    return GreyValues(
        peak=float(2**bits - 1),
        white_is_zero=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0,
        is_unsigned=tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 1,
    )
