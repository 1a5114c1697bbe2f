"""Delimited text: strict CSV and TSV records, and a lenient reader for files with two columns."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from diptych.data.formats.encoding import open_text
from diptych.errors import DataError
from diptych.images.suffixes import is_image_file
from diptych.runtime.files import MAX_COLUMNS, MAX_RECORD


def delimiter_of(header: str) -> str:
    """The delimiter of a table: the most frequent candidate in its header line."""
    return max("\t,;|", key=header.count)


def headerless_delimiter(line: str) -> str | None:
    """The delimiter of a table without a header, from its first line; None unless that begins with an image file."""
    match = re.match(r'\s*("?)([^\t,;|"]+)\1([\t,;|])', line)
    return match[3] if match and is_image_file(match[2].strip()) else None


def number_in_line(line: str) -> str:
    """The number that a line begins with, before a delimiter and a text that is no number; else "".

    No header begins with a number: such a line is of a table without one that names its images by number.
    """
    match = re.match(r'\s*("?)(\d+)\1[\t,;|]\s*"?[^\s\d"]', line)
    return match[2] if match else ""


def column_names(header: str, where: str = "the table") -> list[str]:
    """The column names in a header line, quoted or not.

    Raises:
        DataError: the line is not a header, or has more than `MAX_COLUMNS` columns.
    """
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter_of(header)), [])]
    except csv.Error as error:
        raise DataError(f"the first line of {where} is not a table header ({error})") from error
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{where} has {len(names):,} columns, the limit is {MAX_COLUMNS:,}; remove the unused ones")
    return names


def csv_fields(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, with its first line number.

    The `csv` module silently reads the records after an unclosed quote into one field; here, a record of several lines
    with an odd number of quotes is refused.

    Raises:
        DataError: a quote is not closed, or a record is longer than `MAX_RECORD`.
    """
    lines: list[str] = []  # of the current record
    with open_text(path, newline="") as file:
        reader = csv.reader(_recorded(file, lines, path), delimiter=delimiter)
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise DataError(f"'{path}', line {first}: {error}; is a closing quote missing?") from error
            if fields is None:
                return
            if len(lines) > 1 and sum(line.count('"') for line in lines) % 2:
                raise DataError(f"'{path}', line {first}: a quote is not closed; close or double it")
            lines.clear()
            yield first, fields


def _recorded(file: Iterable[str], lines: list[str], path: Path) -> Iterator[str]:
    """Yield the lines of a file and append each to `lines`, which the caller clears after each record."""
    size = 0
    for number, line in enumerate(file, 1):
        size = size + len(line) if lines else len(line)
        if size > MAX_RECORD:
            raise DataError(
                f"'{path}', line {number - len(lines)}: the record has more than {MAX_RECORD:,} characters; "
                "is a closing quote missing?"
            )
        lines.append(line)
        yield line


def two_fields(path: Path, delimiter: str = ",") -> Iterator[tuple[int, str, str]]:
    """Read a file with two columns: line number, first field, and *everything* after the first delimiter.

    Accepts captions with commas, quoted or not; quoted captions that span several lines; and captions with a quote
    that is never closed, which would make `csv` consume the following lines. A quoted field ends at a closing quote at
    the end of a line; if there is none within 50 lines, the opening quote is literal.

    Raises:
        DataError: a line is longer than `MAX_RECORD`.
    """
    escaped = re.escape(delimiter)
    record = re.compile(rf'("(?:[^"]|"")*+"|[^{escaped}]*)(?:{escaped}(.*))?', re.DOTALL)
    number = buffered = 0
    with open_text(path) as file:
        lines: deque[str] = deque()
        while True:
            while len(lines) < _QUOTED_LINES and (buffered <= _QUOTED_CHARACTERS or not lines):
                if not (following_line := file.readline()):
                    break
                lines.append(following_line.rstrip("\n"))
                buffered += len(lines[-1])
            if not lines:
                return
            line, consumed = lines.popleft(), 1
            buffered -= len(line)
            if line.strip():
                match = record.fullmatch(line)
                name, text = (match[1], match[2] or "") if match else (line, "")
                if text.startswith('"') and not _is_quoted(text):
                    following = _continuation_lines(text, lines)
                    for _ in range(following):
                        text += "\n" + lines.popleft()
                    buffered, consumed = sum(map(len, lines)), following + 1
                yield number + 1, _unquoted(name), _unquoted(text)
            number += consumed


_QUOTED_LINES = 50
_QUOTED_CHARACTERS = 131_072  # maximum length of a quoted field, as in the `csv` module


def _continuation_lines(text: str, following: Iterable[str]) -> int:
    """The number of `following` lines that belong to the quoted field `text`; 0 if its quote is not closed in them."""
    size = len(text)
    for number, line in enumerate((text[1:], *following)):
        size += len(line)
        rest = line.replace('""', "")
        if size > _QUOTED_CHARACTERS or '"' in rest[:-1]:  # the quote is closed within the line
            return 0
        if rest.endswith('"'):
            return number
    return 0


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', "")


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _is_quoted(field) else field
