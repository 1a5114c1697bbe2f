"""Lines with delimiters: the records of CSV and TSV files, and files of two columns as people really write them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from diptych.errors import DataError
from diptych.formats.text import open_text


def delimiter_of(header: str) -> str:
    """The delimiter of a table, by its header line."""
    return max("\t,;|", key=header.count)


def column_names(header: str) -> list[str]:
    """The names in a table's header line, quoted or not."""
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter_of(header)), [])]
    except csv.Error as error:
        raise DataError(f"the first line is no header of a table ({error})") from error


def csv_fields(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, with the number of its first line.

    A quote that is never closed would take the records after it into one field without a word: a record of several
    lines with an odd number of quotes is refused.
    """
    lines: list[str] = []  # of the record that is being read
    with open_text(path, newline="") as file:
        reader = csv.reader(_noted(file, lines), delimiter=delimiter)
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


def _noted(file: Iterable[str], lines: list[str]) -> Iterator[str]:
    """The lines of a file, each also added to `lines`."""
    for line in file:
        lines.append(line)
        yield line


def two_fields(path: Path, delimiter: str = ",") -> Iterator[tuple[int, str, str]]:
    """The lines of a file of two columns: line number, first field, and *everything* after the first delimiter.

    Found in the wild, and all read here: captions with commas, quoted as CSV wants or not at all; quoted captions that
    go on over several lines; a caption that opens a quote and never closes it, which would make `csv` swallow the
    lines after it. A quoted field ends where its closing quote ends a line; if that does not come within 50 lines,
    the quote is text.
    """
    mark = re.escape(delimiter)
    record = re.compile(rf'("(?:[^"]|"")*"|[^{mark}]*)(?:{mark}(.*))?', re.DOTALL)
    number = 0
    with open_text(path) as file:
        lines = deque(islice(file, _QUOTED_LINES))
        while lines:
            line = lines.popleft().rstrip("\n")
            taken = 1
            if line.strip():
                found = record.fullmatch(line)
                name, text = (found[1], found[2] or "") if found else (line, "")
                if text.startswith('"') and not _is_quoted(text):
                    text, taken = _continued(text, lines)
                yield number + 1, _unquoted(name), _unquoted(text)
            number += taken
            lines.extend(islice(file, taken))


_QUOTED_LINES = 50


def _continued(text: str, following: deque[str]) -> tuple[str, int]:
    """A field whose quote is still open, with the lines it goes on over taken from `following`; their number."""
    whole = text
    for more, line in enumerate(following, 1):
        whole += "\n" + line.rstrip("\n")
        if whole.endswith('"') and _is_quoted(whole):
            for _ in range(more):
                following.popleft()
            return whole, more + 1
    return text, 1


def _is_quoted(field: str) -> bool:
    return re.fullmatch('"(?:[^"]|"")*"', field) is not None


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _is_quoted(field) else field
