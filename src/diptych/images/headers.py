"""Image headers: the cost of decoding an image, read before a decoder sees it.

The size that a file declares need not be the size that is decoded, and some structures cost far more than their bytes:
repeated scans of a JPEG, tiles larger than the image, millions of empty chunks that Pillow visits in Python.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

SCAN_PIXELS = 2_000_000_000
"""Limit of a JPEG's scans times its pixels: 20 scans of 100 megapixels take two seconds. Encoders write up to 18."""
MAX_SCANS = 1_000
MAX_EXIF_SEGMENTS = 16
MAX_PARTS = 65_536
"""Limit of JPEG segments, PNG chunks, GIF blocks before the first frame, TIFF tags or strips, and AVIF boxes."""
MAX_VALUES = 262_144
"""Limit of numbers in a TIFF tag; the transfer function of 16-bit colours has 196,608."""
MAX_RLE_STEPS = 16_000_000
"""Limit of pixels plus three times the bytes of a run-length encoded BMP, which Pillow decodes in Python."""
MAX_OBUS = 4_096
"""Limit of units of an AV1 item that are searched for its size."""


class CostlyError(ValueError):
    """The structure of an image makes it cost more to decode than any real one."""


def check_structure(data: bytes) -> None:
    """Check the structure of an encoded image against this module's limits.

    Raises:
        CostlyError: a limit is exceeded.
        struct.error, IndexError: the headers are truncated.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        _limit("chunks", _count(png_chunks(data)), MAX_PARTS)
    elif data.startswith(b"GIF8"):
        _limit("blocks before its first frame", _count(_gif_blocks(data)), MAX_PARTS)
    elif data.startswith((b"II", b"MM")):
        _check_tiff(data)
    elif data.startswith(b"BM"):
        _check_bmp(data)


def coded_pixels(data: bytes, width: int, height: int) -> int:
    """The most pixels that are decoded for one frame of an AVIF that declares `width` x `height`."""
    return max([width * height, *(w * h for w, h in _av1_sizes(data))])


def _limit(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise CostlyError(f"it has more than {limit:,} {what}, the limit; save it again with an image editor")


def _count(items: Iterator[Any]) -> int:
    return sum(1 for _ in islice(items, MAX_PARTS + 1))


# JPEG

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in entropy-coded data: not a stuffed FF or a restart
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_frame(data: bytes) -> tuple[int, int, int, bool]:
    """Width, height, components, and whether the decoder holds all coefficients (progressive, or several scans)."""
    width = height = components = 0
    progressive = False
    for marker, start in _segments(data):
        if marker in _SOF:
            height, width, components = struct.unpack_from(">HHB", data, start + 3)
            progressive = marker not in (0xC0, 0xC1)
        elif marker == 0xDA:
            progressive |= data[start + 2] < components  # this scan lacks components, so others follow
            break
    return width, height, components, progressive


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
    _limit("segments or bytes between them", steps, MAX_PARTS)


def _check_jpeg(data: bytes) -> None:
    exif = 0
    first_scan = len(data)
    for marker, start in _segments(data):
        exif += marker == 0xE1 and data.startswith(b"Exif\0", start + 2)
        first_scan = start
    _limit("EXIF segments", exif, MAX_EXIF_SEGMENTS)
    width, height, _, _ = jpeg_frame(data)
    allowed = min(MAX_SCANS, SCAN_PIXELS // max(1, width * height))
    if data.count(b"\xff\xda", first_scan - 2) > allowed:  # also counts what follows the image
        _limit(f"scans of {width} x {height} pixels", _scans(data, first_scan, allowed), allowed)


def _scans(data: bytes, offset: int, allowed: int) -> int:
    scans = 1
    for _ in range(MAX_PARTS):
        offset += int.from_bytes(data[offset : offset + 2], "big")
        match = _MARKER.search(data, offset)
        if match is None or data[match.start() + 1] == 0xD9 or scans > allowed:
            return scans
        scans += data[match.start() + 1] == 0xDA
        offset = match.end()
    raise CostlyError(f"it has more than {MAX_PARTS:,} segments between scans; save it again with an image editor")


# PNG, GIF, BMP

_DROPPED = (b"tEXt", b"zTXt", b"iCCP", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0\0"  # not compressed; it may hold the orientation


def png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end offset of each chunk."""
    offset = 8
    while offset + 8 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        yield offset, end
        offset = end


def without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile, which are unused and which Pillow would unpack; other data unchanged."""
    if not data.startswith(b"\x89PNG"):
        return data
    kept = [(offset, end) for offset, end in png_chunks(data) if not _is_text(data, offset)]
    whole = 8 + sum(end - offset for offset, end in kept)
    return data if whole >= len(data) else data[:8] + b"".join(data[offset:end] for offset, end in kept)


def _is_text(data: bytes, offset: int) -> bool:
    return data.startswith(_DROPPED, offset + 4) and not data.startswith(b"iTXt" + _XMP, offset + 4)


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
    _limit("run-length encoded pixels or bytes", abs(width * height) + 3 * len(data), MAX_RLE_STEPS)


# TIFF

_PLACES = (
    273,
    279,
    324,
    325,
)  # offsets and sizes of strips and tiles, each of which Pillow decodes in a call of its own


def _check_tiff(data: bytes) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    entries = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
    _limit("tags", entries, MAX_PARTS)
    form, offset = order + ("HHQ8x" if big else "HHI4x"), offset + (8 if big else 2)
    values: dict[int, int] = {}
    for tag, kind, count in struct.iter_unpack(form, data[offset : offset + entries * struct.calcsize(form)]):
        if kind not in (1, 2, 7):  # bytes and texts are not converted to numbers
            _limit(f"values in tag {tag}", count, MAX_PARTS if tag in _PLACES else MAX_VALUES)
        values[tag] = count


def check_strips(data: bytes, offsets: Sequence[int], sizes: Sequence[int], pixels: int) -> None:
    """Check strips or tiles of `pixels` each, whose content is JPEG, for overlaps and numbers of scans.

    Raises:
        CostlyError: they overlap, or have too many scans.
    """
    _limit("bytes in overlapping strips", sum(sizes), 2 * len(data))
    scans = sum(data.count(b"\xff\xda", start, start + size) for start, size in zip(offsets, sizes, strict=False))
    _limit(f"JPEG scans of {pixels:,} pixels", scans, SCAN_PIXELS // max(1, pixels))


# AV1, in AVIF: the size in a box need not be the one that the decoder allocates

_INSIDE = {b"meta": 4, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}  # bytes before the nested boxes


class _Bits:
    """A reader of big-endian numbers of any number of bits."""

    def __init__(self, data: bytes, byte: int) -> None:
        self.data, self.position = data, 8 * byte

    def take(self, bits: int) -> int:
        """The number in the next `bits` bits."""
        end = self.position + bits
        if end > 8 * len(self.data):
            raise EOFError("the headers are truncated")
        value = int.from_bytes(self.data[self.position // 8 : -(-end // 8)], "big") >> (-end % 8)
        self.position = end
        return value & ((1 << bits) - 1)


def _av1_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """The sizes in the AV1 sequence headers of still images, and of the first sample of each track."""
    boxes = list(islice(_boxes(data, 0, len(data)), MAX_PARTS + 1))
    _limit("boxes", len(boxes), MAX_PARTS)
    inline = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    for kind, start, _ in boxes:
        if kind == b"iloc":
            for item in _items(data, start, inline):
                yield from _sequence_sizes(item)
        elif kind in (b"stco", b"co64"):
            offset = _Bits(data, start + 8).take(32 if kind == b"stco" else 64)
            yield from _sequence_sizes(data[offset:])


def _boxes(data: bytes, offset: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type of each box, and start and end of its content; a box comes before those nested in it."""
    while offset + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, offset)
        start = offset + 8
        if size == 1:
            size, start = _Bits(data, start).take(64), offset + 16
        stop = min(end, max(start, offset + size)) if size else end
        yield kind, start, stop
        if kind in _INSIDE:
            yield from _boxes(data, start + _INSIDE[kind], stop)
        offset = stop


def _items(data: bytes, position: int, inline: int) -> Iterator[bytes]:
    """The items that an `iloc` box locates; `inline` is the offset of those stored in `idat`."""
    version, bits = data[position], _Bits(data, position + 4)
    offset, length, base, index = (8 * bits.take(4) for _ in range(4))
    left = 2 * len(data)
    for _ in range(bits.take(16 if version < 2 else 32)):
        bits.take(16 if version < 2 else 32)
        method = bits.take(16) & 15 if version else 0
        bits.take(16)
        begun = bits.take(base) + (inline if method == 1 else 0)
        parts: list[bytes] = []
        for _ in range(bits.take(16)):
            bits.take(index if version else 0)
            start = begun + bits.take(offset)
            size = bits.take(length) or len(data)
            parts.append(data[start : start + size])
            left -= len(parts[-1]) + 1
            _limit("bytes in overlapping items", -left, 0)
        yield b"".join(parts)


def _sequence_sizes(item: bytes) -> Iterator[tuple[int, int]]:
    offset = 0
    for count in range(MAX_OBUS + 1):
        if offset >= len(item):
            return
        _limit("units in an AV1 item", count, MAX_OBUS - 1)
        header = item[offset]
        offset += 2 if header & 4 else 1
        size = len(item) - offset
        if header & 2:
            size, offset = _leb128(item, offset)
        if header >> 3 & 15 == 1:
            yield _sequence_size(_Bits(item, offset))
        offset += size


def _leb128(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = data[offset + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, offset + place + 1
    raise EOFError("a length of more than eight bytes")


def _sequence_size(bits: _Bits) -> tuple[int, int]:
    """The largest frame, by section 5.5 of the AV1 specification."""
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        delays = 0
        if bits.take(1):  # timing
            bits.take(64)
            if bits.take(1):
                zeros = next(count for count in range(33) if count == 32 or bits.take(1))
                bits.take(zeros)
            if bits.take(1):
                delays = bits.take(5) + 1
                bits.take(42)
        display = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delays and bits.take(1):
                bits.take(2 * delays + 1)
            if display and bits.take(1):
                bits.take(4)
    width, height = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width) + 1, bits.take(height) + 1
