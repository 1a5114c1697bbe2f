"""Small ICC profiles: matrix profiles of RGB spaces, a grey gamma, and a table for inks."""

from __future__ import annotations

import itertools
import struct

import numpy as np

ADOBE_RGB = ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], (0.3127, 0.3290), 2.2)
DISPLAY_P3 = ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], (0.3127, 0.3290), 2.2)
PROPHOTO = ([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], (0.3457, 0.3585), 1.8)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def rgb_profile(primaries: list[tuple[float, float]], white: tuple[float, float], gamma: float) -> bytes:
    """A profile with these chromaticities and one exponent for all channels."""
    xyz = np.array([_xyz(*point) for point in primaries]).T  # (XYZ, primary)
    source = _xyz(*white)
    columns = xyz * np.linalg.solve(xyz, source)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ source)) @ _BRADFORD @ columns
    tags = {name: _xyz_tag(adapted[:, column]) for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", b"mntr", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))})


def grey_profile(gamma: float) -> bytes:
    """A grey profile with one exponent."""
    return _profile(b"GRAY", b"mntr", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A printer whose paper is white and whose inks are darker than ideal ones, as a table of 2 x 2 x 2 x 2 colours."""
    grid = bytearray()
    for cyan, magenta, yellow, black in itertools.product((0, 1), repeat=4):
        light = 0 if black else 100 - 45 * cyan - 40 * magenta - 10 * yellow
        a, b = (0, 0) if black else (-35 * cyan + 70 * magenta, -45 * cyan + 85 * yellow)
        grid += bytes((max(0, round(light * 2.55)), 128 + a, min(255, 128 + b)))
    head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).flatten())
    return _profile(b"CMYK", b"prtr", {b"A2B0": head + bytes(range(256)) * 4 + bytes(grid) + bytes(range(256)) * 3})


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _profile(space: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"wtpt": _xyz_tag(_D50), **tags}
    table, bodies = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    space_of_connection = b"Lab " if space == b"CMYK" else b"XYZ "
    head = bytes(4) + bytes(4) + b"\2\x20\0\0" + kind + space + space_of_connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _D50))
    head = head.ljust(128, b"\0")
    whole = head + struct.pack(">I", len(tags)) + table + bodies
    return struct.pack(">I", len(whole)) + whole[4:]
