"""JSON of any size, value by value: what is in memory at once is one entry of a list or an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.data.formats.encoding import open_text
from diptych.errors import DataError
from diptych.runtime.files import MAX_RECORD

_SPACE = re.compile(r"[ \t\n\r]*")
_STEP = 1 << 16  # characters that are read at once


def parse(text: str | bytes, where: str) -> Any:
    """A JSON text as a value.

    Raises:
        DataError: it is not JSON, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); mend or remove it") from error


def entries(path: Path, key: str | None = None) -> Iterator[tuple[int | str, Any]]:
    """The entries of a JSON file: of a list with their places, of an object with their names.

    With `key`, those of the list that the object has under this key; what else the object has is passed over.

    Raises:
        DataError: it is not JSON, an entry has more than `MAX_RECORD` characters, or there is no list under `key`.
    """
    with open_text(path) as file:
        text = _Text(path, file.read)
        if key is None:
            yield from _entries(text)
        else:
            yield from _listed(text, path, key)
        if text.next():
            raise text.invalid("something follows its end")


def is_object(path: Path) -> bool:
    """Whether a JSON file holds an object, by its first character."""
    with open_text(path) as file:
        return _Text(path, file.read).next() == "{"


class _Text:
    """A text that is read as far as the next value needs."""

    def __init__(self, path: Path, read: Any) -> None:
        self._path, self._read = path, read
        self._held, self._at, self._passed, self._ended = "", 0, 0, False
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            if (found := _SPACE.match(self._held, self._at)) is not None:
                self._at = found.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Pass the next character, which must be one of those expected."""
        if not (found := self.next()) or found not in expected:
            raise self.invalid(f"expected {' or '.join(expected)}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Pass the next value, and return it."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._held, self._at)
                length = end - self._at
                if end + 2 < len(self._held) or not self._more():  # a number may go on after its point or `e+`
                    self._at += length
                    return value
            except RecursionError as error:
                raise self.invalid(str(error)) from error
            except ValueError as error:
                if len(self._held) - self._at > MAX_RECORD:
                    raise self.invalid(f"or an entry has more than {MAX_RECORD:,} characters: {error}") from error
                if not isinstance(error, json.JSONDecodeError) or not self._more():
                    raise self.invalid(str(error)) from error

    def invalid(self, reason: str) -> DataError:
        return DataError(
            f"'{self._path}' is not valid JSON after {self._passed + self._at:,} characters ({reason}); "
            "mend it, or fetch it again"
        )

    def _more(self) -> bool:
        """Read as much again as is held, so that a value of any length is decoded a few times at most."""
        self._passed += self._at
        self._held = self._held[self._at :]
        self._at = 0
        more = "" if self._ended else self._read(max(_STEP, len(self._held)))
        self._ended = not more
        self._held += more
        return bool(more)


def _entries(text: _Text) -> Iterator[tuple[int | str, Any]]:
    """The entries of the list or the object that follows."""
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


def _listed(text: _Text, path: Path, key: str) -> Iterator[tuple[int | str, Any]]:
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
    raise DataError(f"'{path}' has no list of objects '{key}'; is it a caption file of this format?")
