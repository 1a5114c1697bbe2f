"""Paths as valid text for tables and JSON, and back, without losing a byte."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diptych.images.decode import content_hash
from diptych.images.roots import expand_home

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


def texts_of(path: str | Path) -> list[str]:
    """The texts under which an index may have a path, given as a path or as `to_text` shows it.

    Raises:
        OSError, ValueError: as `spellings`.
    """
    forms = [form for name in (path, from_text(str(path))) for form in spellings(name)]
    return list(dict.fromkeys(map(to_text, forms)))


def spellings(path: str | Path) -> list[str]:
    """The absolute forms of a path, from the one with all links resolved to the one with none.

    A walk resolves the links of the folder that it starts from, but not those below it, so an index has a file under
    one of these forms: the links of its first 0, 1, 2, ... folders are resolved.

    Raises:
        OSError, ValueError: the path has a loop of links, a NUL, or more characters than the system takes.
    """
    whole = os.path.join(os.getcwd(), expand_home(path))  # noqa: PTH109, PTH118 (Path would drop `./..`)
    forms: list[Path] = []
    for form in dict.fromkeys((whole, os.path.normpath(whole))):  # `link/..` is the link's folder to most shells
        parts = Path(form).parts
        first = max((place + 1 for place, part in enumerate(parts) if part == os.pardir), default=1)
        forms += [Path(os.path.realpath(Path(*parts[:end])), *parts[end:]) for end in range(len(parts), first - 1, -1)]
    return list(dict.fromkeys(map(str, forms)))
