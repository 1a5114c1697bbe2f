"""JPEG files: their headers and scans, and those that were cut short."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, JpegImagePlugin

from diptych.images.costs import MAX_PARTS, CostlyError, limit

SCAN_PIXELS = 2_000_000_000
"""Limit of a JPEG's scans times its pixels: 20 scans of 100 megapixels take two seconds."""
MIN_SCANS = 20
"""Scans that a JPEG of any size may have. Encoders write up to 18."""
MAX_SCANS = 1_000
MAX_MISSING_ROWS = 0.1
"""Largest share of its rows that a JPEG may lack and still be read."""
MAX_EXIF_SEGMENTS = 16

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in entropy-coded data: not a stuffed FF or a restart
_BAND_PIXELS = 2**20
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """The frame of a JPEG: its size in pixels, and the bytes of the coefficients that the decoder holds.

    `coefficient_bytes` is 0 for an image of one scan, which is decoded as it is read, and otherwise 2 for each value of
    each component, which covers the whole image, however much it is reduced.
    """

    width: int
    height: int
    coefficient_bytes: int


def jpeg_frame(data: bytes) -> JpegFrame:
    """The frame of a JPEG, read from its headers up to the first scan."""
    width = height = components = values = 0
    holds_coefficients = False
    for marker, start in _segments(data):
        if marker in _SOF:
            height, width, components = struct.unpack_from(">HHB", data, start + 3)
            values = _coefficients(width, height, data[start + 9 : start + 8 + 3 * components : 3])
            holds_coefficients = marker not in (0xC0, 0xC1)
        elif marker == 0xDA:
            holds_coefficients |= data[start + 2] < components  # this scan lacks components, so others follow
            break
    return JpegFrame(width, height, 2 * values if holds_coefficients else 0)


def _coefficients(width: int, height: int, sampling: bytes) -> int:
    """The number of values of all components, by their sampling factors: a byte each, horizontal and vertical."""
    factors = [(max(1, factor >> 4), max(1, factor & 15)) for factor in sampling]
    if not factors:
        return 0
    across, down = max(h for h, _ in factors), max(v for _, v in factors)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return 64 * units * sum(h * v for h, v in factors)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker of each segment up to the first scan, and the offset of its length; stray bytes count to the limit too."""
    offset, steps = 2, 0
    while steps <= MAX_PARTS:
        begun = data.find(b"\xff", offset)
        if begun < 0:
            break
        marker = data[begun + 1] if begun + 1 < len(data) else 0xD9
        steps += 1 + begun - offset
        offset = begun + 1 if marker == 0xFF else begun + 2
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            continue
        yield marker, offset
        if marker == 0xDA:
            return
        offset += int.from_bytes(data[offset : offset + 2], "big")
    limit("segments or bytes between them", steps, MAX_PARTS)


def check_jpeg(data: bytes) -> None:
    """Check the numbers of segments and scans.

    Raises:
        CostlyError: there are too many.
        struct.error, IndexError: the headers are truncated.
    """
    exif = 0
    first_scan = len(data)
    for marker, start in _segments(data):
        exif += marker == 0xE1 and data.startswith(b"Exif\0", start + 2)
        first_scan = start
    limit("EXIF segments", exif, MAX_EXIF_SEGMENTS)
    frame = jpeg_frame(data)
    allowed = min(MAX_SCANS, max(MIN_SCANS, SCAN_PIXELS // max(1, frame.width * frame.height)))
    if data.count(b"\xff\xda", first_scan - 2) > allowed:  # also counts what follows the image
        scans = sum(1 for _ in islice(_scans(data, first_scan), allowed + 1))
        limit(f"scans of {frame.width} x {frame.height} pixels", scans, allowed)


def _scans(data: bytes, offset: int) -> Iterator[int]:
    """The offset of each scan's header, from that of the first one."""
    yield offset
    for _ in range(MAX_PARTS):
        offset += int.from_bytes(data[offset : offset + 2], "big")
        match = _MARKER.search(data, offset)
        if match is None or data[match.start() + 1] == 0xD9:
            return
        offset = match.end()
        if data[match.start() + 1] == 0xDA:
            yield offset
    raise CostlyError(f"it has more than {MAX_PARTS:,} segments between scans; save it again with an image editor")


# JPEGs that were cut short


def load_cut_short(data: bytes, min_side: int | None) -> JpegImagePlugin.JpegImageFile | None:
    """A JPEG that ends early, decoded with grey for what is missing, as viewers show it.

    None if more than a tenth of its rows are missing, or a scan of a progressive one.
    """
    if not _all_scans_began(data):
        return None
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data + b"\xff\xd9"), "")
    if min_side is not None:
        image.draft(None, (min_side, min_side))
    image.load()
    return image if not _is_grey_below(image, round(image.height * (1 - MAX_MISSING_ROWS))) else None


def _all_scans_began(data: bytes) -> bool:
    """Whether each coefficient of each component, to its last bit, is in a scan that the data hold or begin to hold.

    False for what is not progressive and has several scans: it cannot be told how much the last one lacks.
    """
    missing: dict[int, int] = {}  # by component, a bit for each coefficient
    progressive = False
    first_scan = len(data)
    for marker, start in _segments(data):
        first_scan = start
        if marker in _SOF:
            progressive = marker not in (0xC0, 0xC1)
            missing = dict.fromkeys(data[start + 8 : start + 8 + 3 * data[start + 7] : 3], 2**64 - 1)
    if first_scan + 3 > len(data):
        return False
    if not progressive:
        return data[first_scan + 2] == len(missing)
    for offset in _scans(data, first_scan):
        header = data[offset + 2 : offset + 6 + 2 * data[offset + 2]]
        if len(header) < 4 + 2 * header[0]:
            break
        first, last, bits = header[-3:]
        if bits & 15 == 0:
            for component in header[1:-3:2]:
                missing[component] = missing.get(component, 0) & ~(2 ** (last + 1) - 2**first)
    return bool(missing) and not any(missing.values())


def _is_grey_below(image: Image.Image, row: int) -> bool:
    """Whether all rows from `row` on have the grey of blocks that were not decoded."""
    step = max(1, _BAND_PIXELS // image.width)
    for top in range(min(row, image.height - 1), image.height, step):
        values = np.asarray(image.crop((0, top, image.width, min(top + step, image.height))))
        if ((values != 127) & (values != 128)).any():  # 127 for inverted inks
            return False
    return True
