"""What do pictures cost that are made to cost much, and the largest that are accepted of each format?

    python benchmarks/hostile_pictures.py [--min-side 224] [--only NAME]

Makes each file, decodes it in a process of its own and prints the bytes, the answer, the seconds and the peak of the
memory beyond what the process had before. Needs 3 GB of memory and about two minutes.
"""

from __future__ import annotations

import argparse
import io
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Image.MAX_IMAGE_PIXELS = None

_DECODE = """
import resource, sys, time
from diptych.errors import ImageError
from diptych.images.decode import decode, formats
formats()
data, side = open(sys.argv[1], "rb").read(), int(sys.argv[2]) or None
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    answer = "x".join(map(str, decode(data, min_side=side).size))
except ImageError as error:
    answer = error.reason
unit = 2**20 if sys.platform == "darwin" else 2**10
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
print(f"{answer:>16} {time.perf_counter() - began:8.2f} {peak:8.0f}")
"""


def plain(mode: str, side: int, format: str, **options: Any) -> bytes:
    """A picture of one colour."""
    return _saved(Image.new(mode, (side, side), (90,) * len(Image.new(mode, (1, 1)).getbands())), format, **options)


def noise(side: int, channels: int, format: str, **options: Any) -> bytes:
    """A picture that hardly compresses, so that each pixel costs its full share."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)
    return _saved(Image.fromarray(values), format, **options)


def many_scans(side: int, scans: int, mode: str = "L") -> bytes:
    """A progressive JPEG whose last scan, which refines every coefficient, is repeated."""
    data = plain(mode, side, "JPEG", progressive=True)
    table = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:-2] + data[table:-2] * scans + b"\xff\xd9"


def many_segments(count: int) -> bytes:
    data = plain("RGB", 8, "JPEG")
    return data[:2] + b"\xff\xfe\0\2" * count + data[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_chunks(count: int) -> bytes:
    data = plain("RGB", 8, "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + png_chunk(b"tEXt", b"a\0b") * count + data[at:]


def many_blocks(count: int) -> bytes:
    data = plain("L", 8, "GIF")
    at = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    return data[:at] + b"!\xfe" + b"\x01a" * count + b"\0" + data[at:]


def tiff(tags: dict[int, tuple[int, int, int]], bulk: bytes) -> bytes:
    """A TIFF of `bulk` at byte 8 and these tags: type, count and value."""
    entries = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(bulk)) + bulk + struct.pack("<H", len(tags)) + entries + bytes(4)


def _grey(width: int, height: int, compression: int) -> dict[int, tuple[int, int, int]]:
    return {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, compression), 262: (3, 1, 1)}


def large_tile(side: int) -> bytes:
    """A TIFF of 64 x 64 that is cut from one tile of `side` x `side`."""
    packed = zlib.compress(bytes(side * side), 9)
    tiles = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8), 325: (4, 1, len(packed))}
    return tiff({**_grey(64, 64, 8), **tiles}, packed)


def many_strips(count: int) -> bytes:
    strips = {273: (4, count, 8), 278: (4, 1, 1), 279: (4, 1, 8)}
    return tiff({**_grey(8, 8, 1), **strips}, struct.pack("<I", 8) * count)


def run_length_bmp(width: int, height: int, body: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def untrue_avif(side: int) -> bytes:
    """An AVIF that says 64 x 64 of a frame of `side` x `side`."""
    data = plain("RGB", side, "AVIF", speed=10)
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", 64, 64) + data[at + 8 :]


CASES: dict[str, Callable[[], bytes]] = {
    "JPEG, largest": lambda: plain("RGB", 10_000, "JPEG"),
    "JPEG, progressive, largest": lambda: plain("RGB", 10_000, "JPEG", progressive=True, subsampling=0),
    "JPEG, noise of 36 MP": lambda: noise(6_000, 3, "JPEG", progressive=True, quality=85),
    "JPEG, CMYK, largest": lambda: plain("CMYK", 10_000, "JPEG"),
    "JPEG, most scans": lambda: many_scans(10_000, 13),
    "JPEG, 1,000 scans": lambda: many_scans(4_000, 1_000),
    "JPEG, 1,000,000 segments": lambda: many_segments(1_000_000),
    "PNG, largest": lambda: plain("RGBA", 10_000, "PNG", compress_level=1),
    "PNG, noise of 16 MP": lambda: noise(4_000, 4, "PNG", compress_level=1),
    "PNG, 16 bits, largest": lambda: _saved(Image.new("I;16", (10_000, 10_000), 9), "PNG", compress_level=1),
    "PNG, 500,000 chunks": lambda: many_chunks(500_000),
    "WebP, 38 bytes, 100 MP": lambda: plain("RGB", 10_000, "WEBP", lossless=True, method=0),
    "WebP, lossless, largest": lambda: plain("RGB", 7_900, "WEBP", lossless=True, method=0),
    "WebP, alpha, largest": lambda: plain("RGBA", 7_000, "WEBP", lossless=True, method=0),
    "WebP, noise of 9 MP": lambda: noise(3_000, 4, "WEBP", lossless=True, method=0),
    "GIF, largest": lambda: plain("L", 10_000, "GIF"),
    "GIF, 3,000,000 blocks": lambda: many_blocks(3_000_000),
    "TIFF, largest": lambda: plain("RGBA", 10_000, "TIFF", compression="tiff_lzw"),
    "TIFF, LZMA, noise of 9 MP": lambda: noise(3_000, 3, "TIFF", compression="lzma"),
    "TIFF, largest tile": lambda: large_tile(9_984),
    "TIFF, tile of 20480": lambda: large_tile(20_480),
    "TIFF, most strips": lambda: many_strips(65_536),
    "TIFF, 2,000,000 strips": lambda: many_strips(2_000_000),
    "BMP, RLE, most bytes": lambda: run_length_bmp(2_000, 2_000, (b"\1\0" * 2_000 + b"\0\0") * 950 + b"\xff\0" * 9_000),
    "BMP, RLE, 9,000,000 runs": lambda: run_length_bmp(3_000, 3_000, b"\1\0" * 9_000_000),
    "AVIF, 64 MP": lambda: plain("RGB", 8_000, "AVIF", speed=10),
    "AVIF, noise of 4 MP": lambda: noise(2_000, 3, "AVIF", speed=10, quality=95),
    "AVIF, 64 x 64 of 12000": lambda: untrue_avif(12_000),
}


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--min-side", type=int, default=0, help="as of `decode`; 0 decodes at full size")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--make", help=argparse.SUPPRESS)  # in a process of its own, whose peak is then not inherited
    options = parser.parse_args()
    if options.make:
        sys.stdout.buffer.write(CASES[options.make]())
        return
    print(f"{'picture':28} {'bytes':>12} {'answer':>16} {'seconds':>8} {'MiB':>8}", flush=True)
    for name in CASES:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "picture")
            with file.open("wb") as output:
                subprocess.run([sys.executable, __file__, "--make", name], stdout=output, check=True)
            command = [sys.executable, "-W", "ignore", "-c", _DECODE, str(file), str(options.min_side)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            print(f"{name:28} {file.stat().st_size:12,} {done.stdout.rstrip()}", flush=True)


if __name__ == "__main__":
    main()
