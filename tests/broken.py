"""Picture files that are broken in different ways, and what `ImageError` should say of each."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def make_image(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A small picture full of detail, another for each seed."""
    noise = Image.frombytes("RGB", (6, 5), random.Random(seed).randbytes(6 * 5 * 3))
    return noise.resize(size, Image.Resampling.NEAREST)


def encoded(format: str, seed: int = 0) -> bytes:
    file = io.BytesIO()
    make_image(seed).save(file, format)
    return file.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bomb() -> bytes:
    """A PNG whose header promises 30,000 x 30,000 pixels; no pixel follows."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _wrong_checksum() -> bytes:
    data = bytearray(encoded("PNG"))
    data[data.index(b"IHDR") + 4 + 13] ^= 0xFF  # the first byte of the header chunk's checksum
    return bytes(data)


def _part(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


# name -> the bytes of the file (None for none) and the reason that `ImageError` should give
BROKEN: dict[str, tuple[bytes | None, str]] = {
    "zero bytes": (b"", "empty"),
    "truncated jpeg": (_part(encoded("JPEG")), "truncated"),
    "truncated png": (_part(encoded("PNG")), "truncated"),
    "truncated gif": (_part(encoded("GIF")), "truncated"),
    "text": (b"a dog runs on the beach\n", "undecodable"),
    "error page": (b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>", "undecodable"),
    "random bytes": (random.Random(0).randbytes(5_000), "undecodable"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "undecodable"),
    "wrong checksum": (_wrong_checksum(), "undecodable"),
    "bomb": (_bomb(), "too_many_pixels"),
    "directory": (None, "unreadable"),
    "missing": (None, "missing"),
}


def break_file(path: Path, way: str) -> str:
    """Put what `BROKEN` has under `way` in the place of a file; returns the reason that it should be refused for."""
    data, reason = BROKEN[way]
    path.unlink(missing_ok=True)
    if way == "directory":
        path.mkdir()
    if data is not None:
        path.write_bytes(data)
    return reason


def break_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Break each file in another way, in the order of `BROKEN`; returns the reason that each should be refused for."""
    return {path: break_file(path, way) for path, way in zip(paths, BROKEN, strict=False)}
