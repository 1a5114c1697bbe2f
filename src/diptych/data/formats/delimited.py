"""Lines with delimiters: the records of CSV and TSV files, and files of two columns as people really write them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from diptych.data.formats.encoding import open_text
from diptych.errors import DataError
from diptych.runtime.files import MAX_COLUMNS, MAX_RECORD


def delimiter_of(header: str) -> str:
    """The delimiter of a table, by its header line."""
    return max("\t,;|", key=header.count)


def column_names(header: str, where: str = "the table") -> list[str]:
    """The names in a table's header line, quoted or not.

    Raises:
        DataError: it is no header, or has more than `MAX_COLUMNS` columns.
    """
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter_of(header)), [])]
    except csv.Error as error:
        raise DataError(f"the first line of {where} is no header of a table ({error})") from error
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{where} has {len(names):,} columns, the limit is {MAX_COLUMNS:,}; keep those that are used")
    return names


def csv_fields(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, with the number of its first line.

    A quote that is never closed would take the records after it into one field without a word: a record of several
    lines with an odd number of quotes is refused.
    """
    lines: list[str] = []  # of the record that is being read
    with open_text(path, newline="") as file:
        reader = csv.reader(_noted(file, lines, path), delimiter=delimiter)
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise DataError(f"'{path}', line {first}: {error}; is a quote not closed?") from error
            if fields is None:
                return
            if len(lines) > 1 and sum(line.count('"') for line in lines) % 2:
                raise DataError(f"'{path}', line {first}: a quote is opened and not closed; close it, or double it")
            lines.clear()
            yield first, fields


def _noted(file: Iterable[str], lines: list[str], path: Path) -> Iterator[str]:
    """The lines of a file, each also added to `lines`, which the record's reader empties after each record."""
    size = 0
    for number, line in enumerate(file, 1):
        size = size + len(line) if lines else len(line)
        if size > MAX_RECORD:
            raise DataError(
                f"'{path}', line {number - len(lines)}: the record has more than {MAX_RECORD:,} characters; "
                "is a quote not closed?"
            )
        lines.append(line)
        yield line


def two_fields(path: Path, delimiter: str = ",") -> Iterator[tuple[int, str, str]]:
    """The lines of a file of two columns: line number, first field, and *everything* after the first delimiter.

    Found in the wild, and all read here: captions with commas, quoted as CSV wants or not at all; quoted captions that
    go on over several lines; a caption that opens a quote and never closes it, which would make `csv` swallow the
    lines after it. A quoted field ends where its closing quote ends a line; if that does not come within 50 lines,
    the quote is text.

    Raises:
        DataError: a line is longer than `MAX_RECORD`.
    """
    mark = re.escape(delimiter)
    record = re.compile(rf'("(?:[^"]|"")*+"|[^{mark}]*)(?:{mark}(.*))?', re.DOTALL)
    number = held = 0
    with open_text(path) as file:
        lines: deque[str] = deque()
        while True:
            while (
                len(lines) < _QUOTED_LINES and (held <= _QUOTED_CHARACTERS or not lines) and (more := file.readline())
            ):
                lines.append(more.rstrip("\n"))
                held += len(lines[-1])
            if not lines:
                return
            line, taken = lines.popleft(), 1
            held -= len(line)
            if line.strip():
                found = record.fullmatch(line)
                name, text = (found[1], found[2] or "") if found else (line, "")
                if text.startswith('"') and not _is_quoted(text):
                    following = _continued(text, lines)
                    for _ in range(following):
                        text += "\n" + lines.popleft()
                    held, taken = sum(map(len, lines)), following + 1
                yield number + 1, _unquoted(name), _unquoted(text)
            number += taken


_QUOTED_LINES = 50
_QUOTED_CHARACTERS = 131_072  # of a quoted field that goes on over lines, as in the `csv` module


def _continued(text: str, following: Iterable[str]) -> int:
    """Over how many of the lines `following` a field goes on whose quote is open; 0 where it does not close in them."""
    size = len(text)
    for number, line in enumerate((text[1:], *following)):
        size += len(line)
        rest = line.replace('""', "")
        if size > _QUOTED_CHARACTERS or '"' in rest[:-1]:  # the quote is closed before the field ends
            return 0
        if rest.endswith('"'):
            return number
    return 0


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', "")


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _is_quoted(field) else field
