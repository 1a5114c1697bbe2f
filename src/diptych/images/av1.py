"""AV1 headers in AVIF files, which give the size that the decoder allocates; the declared size may differ."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from diptych.images.costs import MAX_PARTS, limit

MAX_OBUS = 4_096
"""Limit of units of an AV1 item that are searched for its size."""


def coded_pixels(data: bytes, width: int, height: int) -> int:
    """The most pixels that are decoded for one frame of an AVIF that declares `width` x `height`."""
    return max([width * height, *(w * h for w, h in _av1_sizes(data))])


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
    limit("boxes", len(boxes), MAX_PARTS)
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
            limit("bytes in overlapping items", -left, 0)
        yield b"".join(parts)


def _sequence_sizes(item: bytes) -> Iterator[tuple[int, int]]:
    offset = 0
    for count in range(MAX_OBUS + 1):
        if offset >= len(item):
            return
        limit("units in an AV1 item", count, MAX_OBUS - 1)
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
