r"""Escaping of untrusted text for terminals, logs, JSON, HTML, Markdown, CSV and plots.

File names, captions, queries and model outputs are data. Each function returns the text in a form that its target
displays and never interprets: no terminal escapes, no markup, no formulas, no extra lines.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterable
from typing import IO, Any

# Characters that control a terminal or are invisible: controls (C0, C1), direction overrides and isolates, zero-width
# and other default-ignorable characters, line separators, private use, lone surrogates, tags. Letters, marks, emoji
# and spaces of all scripts are not among them, so that readable names stay readable.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ue000-\uf8ff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
    "|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]"  # a second variation selector: only the first one selects a glyph
)
# Joiners belong to the spelling of many scripts (Persian, Hindi) and to emoji; between Latin letters they only hide.
_JOINERS = "\u200c\u200d"
_JOINED = re.compile("[\u0590-\u1fff\u2190-\u3163\u3165-\ud7ff\uf900-\ufefe\U00010000-\U0001fbff]")

_MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~$]|^[#+=-]|^\d+(?=[.)])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def printable(text: object, keep: str = "") -> str:
    r"""The text on one line, with invisible characters as Python escapes, except those in `keep`.

    >>> printable("two\nlines \x1b[31mred")
    'two\\nlines \\x1b[31mred'
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep or _joins(match) else _escape(match[0]), str(text))


def printable_lines(text: object) -> str:
    """`printable` for a text of several lines, such as a traceback; all lines but the first are indented."""
    return "\n  ".join(printable(line, keep="\t") for line in str(text).split("\n"))


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""JSON that reads back as the same value, with invisible characters as `\u` escapes.

    >>> to_json("a\x9b31m")
    '"a\\u009b31m"'
    """
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # `dumps` has escaped line breaks inside strings already; those that are left belong to the layout.
    return _UNSEEN.sub(
        lambda match: match[0] if match[0] == "\n" or _joins(match) else json.dumps(match[0])[1:-1], document
    )


def escaped(text: object) -> str:
    """The text for use inside an HTML element or a quoted attribute."""
    return html.escape(printable(text, keep="\n\t"), quote=True)


def markdown(text: object) -> str:
    """The text for use in a line or table cell of Markdown."""
    return _MARKDOWN.sub(_backslashed, printable(text).strip())


def code_span(text: object) -> str:
    """A Markdown code span of any text, even with backticks."""
    line = printable(text)
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: object, language: str = "") -> str:
    """A fenced Markdown code block, with a fence that no line of the text can close."""
    lines = printable(text, keep="\n\t")
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def plot_label(text: object) -> str:
    """A label that matplotlib shows literally: without `$` formulas, and visible in a legend despite a leading `_`."""
    label = printable(text).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


class ReportTable:
    """Writes CSV for spreadsheets: a text that would be read as a formula is prefixed with an apostrophe.

    For results only. CSV files that programs read back are written by `csv.writer`, with all texts unchanged.
    """

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)

    def writerow(self, row: Iterable[object]) -> None:
        """Write one row."""
        self._writer.writerow([_cell(value) for value in row])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several rows."""
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


def _joins(match: re.Match[str]) -> bool:
    """Whether the match is a joiner between emoji, or between letters of a script that needs it."""
    start, end = match.span()
    before, after = match.string[max(0, start - 1) : start], match.string[end : end + 1]
    return match[0] in _JOINERS and bool(_JOINED.match(before)) and bool(_JOINED.match(after))


def _backslashed(match: re.Match[str]) -> str:
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
