"""Paths as valid text for tables and JSON, and back, without losing a byte."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diptych.images.decode import content_hash

# Python decodes a byte that is not UTF-8 as a lone surrogate, U+DC80 to U+DCFF, which tables cannot hold. It is stored
# as one of the last 128 private code points. A name that really contains one of those is stored by its bytes, all of
# which are above 0x7F, so that every name comes back byte for byte.
_FIRST_BYTE, _FIRST_PRIVATE = 0xDC80, 0x10FF80
_BYTES = {_FIRST_BYTE + offset: _FIRST_PRIVATE + offset for offset in range(128)}
_BACK = {private: byte for byte, private in _BYTES.items()}
_PRIVATE = re.compile("[\U0010ff80-\U0010ffff]")


def to_text(path: str | Path) -> str:
    """A path as valid text with forward slashes; undecodable bytes become private code points.

    Raises:
        ValueError: the name contains a surrogate that stands for no byte, which is possible on Windows.
    """
    name = os.fspath(path)
    name = _PRIVATE.sub(lambda match: match[0].encode().decode("ascii", "surrogateescape"), name)
    text = name.translate(_BYTES)
    text.encode()  # UnicodeEncodeError is a ValueError
    return text.replace(os.sep, "/")


def from_text(text: str) -> Path:
    """The path for which `to_text` returned `text`."""
    return Path(text.translate(_BACK))


def path_id(text: str) -> str:
    """The id of a row: a hash of its path as text, 32 hex digits, the same in every index."""
    return content_hash(text.encode())
