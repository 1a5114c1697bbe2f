r"""Text from files and users, quoted for the place where it is shown: terminal, log, JSON, HTML, Markdown, CSV, plot.

Names of files, captions, queries and model outputs are data. Each function here returns the same text in a form that
its target displays and never interprets: no terminal escape, no markup, no formula, no further line.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterable
from typing import IO, Any

# Characters that a terminal acts on or that show nothing: controls (C0, C1), direction overrides and isolates,
# zero-width and other default-ignorable characters, line separators, private use, lone surrogates, tags. Not among
# them: letters, marks, emoji and spaces of any script, so that readable names stay readable.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ue000-\uf8ff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
    "|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]"  # a second variation selector: the first alone chooses a glyph
)
# Joiners belong to the spelling of many scripts (Persian, Hindi) and to emoji; between Latin letters they only hide.
_JOINERS = "\u200c\u200d"
_JOINED = re.compile("[\u0590-\u1fff\u2190-\u3163\u3165-\ud7ff\uf900-\ufefe\U00010000-\U0001fbff]")

_MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~$]|^[#+=-]|^\d+(?=[.)])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def printable(text: object, keep: str = "") -> str:
    r"""The text on one line, with what cannot be seen as Python's escapes; `keep` are characters to leave alone.

    >>> printable("two\nlines \x1b[31mred")
    'two\\nlines \\x1b[31mred'
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep or _joins(found) else _escape(found[0]), str(text))


def printable_lines(text: object) -> str:
    """The same for a text of several lines, such as a traceback; all but the first are indented."""
    return "\n  ".join(printable(line, keep="\t") for line in str(text).split("\n"))


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""JSON that reads back as the same value and shows no unseen character: they are `\u` escapes inside strings.

    >>> to_json("a\x9b31m")
    '"a\\u009b31m"'
    """
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # Inside strings `dumps` has escaped line breaks already, so those that are left are of the layout.
    return _UNSEEN.sub(
        lambda found: found[0] if found[0] == "\n" or _joins(found) else json.dumps(found[0])[1:-1], document
    )


def escaped(text: object) -> str:
    """Safe inside an HTML element and inside a quoted attribute."""
    return html.escape(printable(text, keep="\n\t"), quote=True)


def markdown(text: object) -> str:
    """Safe as a line or within a line or a table cell of Markdown."""
    return _MARKDOWN.sub(_backslashed, printable(text).strip())


def code_span(text: object) -> str:
    """A Markdown code span, which holds any text, backticks too."""
    line = printable(text)
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: object, language: str = "") -> str:
    """A fenced code block of Markdown, with a fence that no line of the text can close."""
    lines = printable(text, keep="\n\t")
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def plot_label(text: object) -> str:
    """A label that matplotlib shows as it is: `$` begins no formula, and a leading `_` does not hide it in a legend."""
    label = printable(text).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


class ReportTable:
    """Writes CSV that people open in a spreadsheet: a text that would be taken as a formula gets an apostrophe.

    For results only. A CSV file that is data, which a program or diptych itself reads back, is written by `csv.writer`,
    with every name as it is.
    """

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)

    def writerow(self, row: Iterable[object]) -> None:
        self._writer.writerow([_cell(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        for row in rows:
            self.writerow(row)


def _cell(value: object) -> object:
    if isinstance(value, int | float) or value is None:
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _joins(found: re.Match[str]) -> bool:
    """Whether it is a joiner that joins letters of scripts that need it, or emoji."""
    start, end = found.span()
    before, after = found.string[max(0, start - 1) : start], found.string[end : end + 1]
    return found[0] in _JOINERS and bool(_JOINED.match(before)) and bool(_JOINED.match(after))


def _backslashed(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
