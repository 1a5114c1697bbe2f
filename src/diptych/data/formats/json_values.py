"""Incremental JSON parsing: reads a large file entry by entry, with one entry in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diptych.data.formats.encoding import open_text
from diptych.errors import DataError
from diptych.runtime.files import MAX_RECORD

_SPACE = re.compile(r"[ \t\n\r]*")
_STEP = 1 << 16  # characters read at a time


def parse(text: str | bytes, where: str) -> Any:
    """Parse a JSON text; `where` is used in error messages.

    Raises:
        DataError: the text is not valid JSON, is nested too deeply, or contains a number with thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); fix or remove it") from error


def entries(path: Path, key: str | None = None) -> Iterator[tuple[int | str, Any]]:
    """The entries of a JSON file: (index, value) for a list, (name, value) for an object.

    With `key`, the entries of the list stored under that key of the top-level object; other keys are skipped.

    Raises:
        DataError: the file is not valid JSON, an entry has more than `MAX_RECORD` characters, or `key` is not a list.
    """
    with open_text(path) as file:
        text = _Text(path, file.read)
        if key is None:
            yield from _entries(text)
        else:
            yield from _entries_under(text, path, key)
        if text.next():
            raise text.invalid("extra data after the end")


def is_object(path: Path) -> bool:
    """Whether the top-level value of a JSON file is an object, judged by its first character."""
    with open_text(path) as file:
        return _Text(path, file.read).next() == "{"


class _Text:
    """A JSON text that is read only as far as the next value requires."""

    def __init__(self, path: Path, read: Callable[[int], str]) -> None:
        self._path, self._read = path, read
        self._buffer, self._position, self._consumed, self._ended = "", 0, 0, False
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is not whitespace, or "" at the end."""
        while True:
            if (match := _SPACE.match(self._buffer, self._position)) is not None:
                self._position = match.end()
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Consume and return the next character, which must be one of `expected`."""
        if not (character := self.next()) or character not in expected:
            raise self.invalid(f"expected {' or '.join(expected)}")
        self._position += 1
        return character

    def value(self) -> Any:
        """Consume and return the next value."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._buffer, self._position)
                length = end - self._position
                if end + 2 < len(self._buffer) or not self._more():  # a number may continue after its point or `e+`
                    self._position += length
                    return value
            except RecursionError as error:
                raise self.invalid(str(error)) from error
            except ValueError as error:
                if len(self._buffer) - self._position > MAX_RECORD:
                    raise self.invalid(f"or an entry has more than {MAX_RECORD:,} characters: {error}") from error
                if not isinstance(error, json.JSONDecodeError) or not self._more():
                    raise self.invalid(str(error)) from error

    def invalid(self, reason: str) -> DataError:
        """The error for invalid JSON at the current position."""
        return DataError(
            f"'{self._path}' is not valid JSON after {self._consumed + self._position:,} characters ({reason}); "
            "fix it, or download it again"
        )

    def _more(self) -> bool:
        """Double the buffer, so that a long value is decoded only a few times; False at the end of the file."""
        self._consumed += self._position
        self._buffer = self._buffer[self._position :]
        self._position = 0
        more = "" if self._ended else self._read(max(_STEP, len(self._buffer)))
        self._ended = not more
        self._buffer += more
        return bool(more)


def _entries(text: _Text) -> Iterator[tuple[int | str, Any]]:
    """The entries of the list or object at the current position."""
    if text.next() not in ("[", "{"):
        raise text.invalid("expected a list or an object")
    is_list = text.take("[{") == "["
    end, number = "]" if is_list else "}", 0
    while number or text.next() != end:
        yield (number, text.value()) if is_list else (_name(text), text.value())
        number += 1
        if text.take(f",{end}") == end:
            return
    text.take(end)


def _name(text: _Text) -> str:
    if text.next() != '"':
        raise text.invalid("expected a name in quotes")
    name: str = text.value()
    text.take(":")
    return name


def _entries_under(text: _Text, path: Path, key: str) -> Iterator[tuple[int | str, Any]]:
    """The entries of the list under `key` of the object at the current position."""
    seen = False
    if text.next() == "{":
        text.take("{")
        while text.next() != "}":
            is_wanted = _name(text) == key
            if is_wanted and (seen or text.next() != "["):
                break
            if is_wanted:
                seen = True
                yield from _entries(text)
            elif text.next() in ("[", "{"):
                for _ in _entries(text):
                    pass
            else:
                text.value()
            if text.next() != "}":
                text.take(",")
        else:
            text.take("}")
            if seen:
                return
    raise DataError(f"'{path}' has no list of objects '{key}'; is this a caption file of this format?")
