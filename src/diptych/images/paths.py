"""Paths as text that a table can hold, byte for byte, and back."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diptych.images.decode import content_hash

# A name's byte that is not UTF-8 reads in Python as a lone surrogate, U+DC80 to U+DCFF, which no table can hold.
# It is kept as one of the last 128 private code points. A name that truly contains one of those is spelt by its bytes,
# all of which are above 0x7F, so that every name comes back byte for byte.
_FIRST_BYTE, _FIRST_PRIVATE = 0xDC80, 0x10FF80
_BYTES = {_FIRST_BYTE + at: _FIRST_PRIVATE + at for at in range(128)}
_BACK = {private: byte for byte, private in _BYTES.items()}
_PRIVATE = re.compile("[\U0010ff80-\U0010ffff]")


def to_text(path: str | Path) -> str:
    """A path as valid text with forward slashes; undecodable bytes of names become private code points.

    Raises:
        ValueError: the name holds a surrogate that stands for no byte, as a name on Windows may.
    """
    name = os.fspath(path)
    name = _PRIVATE.sub(lambda found: found[0].encode().decode("ascii", "surrogateescape"), name)
    text = name.translate(_BYTES)
    text.encode()  # UnicodeEncodeError is a ValueError
    return text.replace(os.sep, "/")


def from_text(text: str) -> Path:
    """The path that `to_text` made `text` of."""
    return Path(text.translate(_BACK))


def path_id(text: str) -> str:
    """The id of the row for a path as text: 32 hex digits, the same in every index."""
    return content_hash(text.encode())
