"""Terminal output: lines, tables, reports, JSON, CSV, paths and progress bars.

All output of the command line goes through this file. Text for people is escaped here, for every command: a file name
or a caption cannot emit terminal escapes, markup or further lines. JSON, CSV and paths are for programs and stay exact.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from diptych.runtime.quoting import printable, to_json

if TYPE_CHECKING:
    from cyclopts import CycloptsError
    from PIL import Image
    from rich.console import Console
    from rich.panel import Panel
    from rich.progress import Progress, ProgressColumn

    from diptych.data.doctor.inspect import Report, Spread
    from diptych.data.reading_notes import ReadingNotes

Item = TypeVar("Item")


@dataclass
class _Shown:
    progress: bool = True
    notes: bool = True


_shown = _Shown()


def set_quiet(quiet: bool, as_json: bool = False) -> None:
    """Set what this command shows besides results: with --quiet nothing, with --json progress bars but no notes."""
    _shown.progress = not quiet
    _shown.notes = not quiet and not as_json


def echo(*cells: object) -> None:
    """Print one line on standard output, its cells separated by tabs."""
    print("\t".join(map(printable, cells)))


def note(*cells: object) -> None:
    """`echo`, unless --quiet or --json is set: for hints, timings and names of written files."""
    if _shown.notes:
        echo(*cells)


def warn(message: object, *, new_line: bool = False) -> None:
    """Print one line on standard error; with `new_line`, leave an unfinished line first."""
    start = "\n" if new_line else ""
    print(f"{start}diptych: {printable(message)}", file=sys.stderr)


def confirm(question: str) -> bool:
    """Whether the user answers yes; whatever else the answer is counts as no."""
    return input(f"{printable(question)} [yes/no] ").strip().lower() in ("y", "yes")


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON for programs; in ASCII if standard output does not encode Unicode."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(to_json(value, indent=indent, ascii_only=not unicode), flush=True)


class RowWriter(Protocol):
    """The part of a `csv.writer` that commands use."""

    def writerow(self, row: Iterable[Any], /) -> Any:
        """Write one row."""

    def writerows(self, rows: Iterable[Iterable[Any]], /) -> Any:
        """Write several rows."""


@contextmanager
def csv_output(path: Path | None) -> Iterator[RowWriter]:
    """A CSV writer to a file, or to standard output if `path` is None; escaped on a terminal, otherwise exact UTF-8."""
    if path is not None:
        from diptych.runtime.atomic import new_text

        path.parent.mkdir(parents=True, exist_ok=True)
        with new_text(path) as file:
            yield csv.writer(file)
    elif sys.stdout.isatty():
        yield csv.writer(_Terminal())
    else:
        yield csv.writer(_Bytes(sys.stdout))


class _Terminal:
    """A text file that prints each line escaped."""

    def write(self, line: str) -> None:
        print(printable(line.rstrip("\r\n")))


class _Bytes:
    """A text file that writes UTF-8 to standard output, whose own encoding may lack characters of the text."""

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._text, self._bytes = stream, getattr(stream, "buffer", None)

    def write(self, line: str) -> None:
        if self._bytes is None:  # a stream of text only, as in a notebook
            self._text.write(line)
        else:
            self._bytes.write(line.encode("utf-8", "surrogateescape"))


def print_paths(paths: Iterable[str], end: bytes) -> None:
    """Print each path byte for byte as the file system has it, followed by `end`; escaped on a terminal.

    If `end` is a line break, a path that contains one would read as two: it is left out, and a warning gives the count.
    """
    from diptych.images.paths import from_text

    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    left_out = 0
    for path in map(from_text, paths):
        name = os.fsencode(path)
        if end == b"\n" and (b"\n" in name or b"\r" in name):
            left_out += 1
        elif out is None or sys.stdout.isatty():
            sys.stdout.write((printable(path) if sys.stdout.isatty() else str(path)) + end.decode())
        else:
            out.write(name + end)
    if left_out:
        warn(f"{left_out:,} paths contain a line break and are left out; --null (-0) prints them too")


def relative_path(path: str) -> str:
    """A stored path for people: relative if it is below the working folder."""
    from diptych.images.paths import from_text

    absolute = from_text(path)
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def note_files(files: Sequence[Path]) -> None:
    """Name the first of the files that were written, and count the others."""
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        note(f"written: {files[0]}{more}")


def write_image(image: Image.Image, path: Path) -> None:
    """Save an image; its folder is created if missing."""
    from diptych.images.contact_sheet import save_contact_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    save_contact_sheet(image, path)


def progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """Yield the items behind a progress bar on standard error, with count, elapsed time and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

    if total == 0:  # everything was done by an earlier run
        return
    columns = (
        text_column("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        text_column("left"),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns) as bar:
        yield from bar.track(items, total=total, description=printable(label))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A progress bar with these columns on standard error; hidden by --quiet. Make text columns with `text_column`."""
    from rich.progress import Progress

    return Progress(*columns, console=console(stderr=True), disable=not _shown.progress)


def text_column(text: str) -> ProgressColumn:
    """A column of plain text without markup."""
    from rich.progress import TextColumn

    return TextColumn(text, markup=False)


@contextmanager
def status(message: str) -> Iterator[None]:
    """A spinner with a message on standard error; hidden by --quiet."""
    if not _shown.progress:
        yield
        return
    with console(stderr=True).status(message):
        yield


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table whose columns are the keys of the first row; columns of numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float) or _is_number(row[name]) for row in rows)
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row.values()))
    console().print(table)


def print_report(report: Report) -> None:
    """Print the figures of a data set, then its findings with their next steps and examples."""
    figures = {
        "images": f"{report.images:,}",
        "usable images": f"{report.images - report.bad_images:,}",
        "captions": f"{report.captions:,}",
        "captions per image": _spread(report.captions_per_image),
        "words per caption": _spread(report.caption_words),
        "splits": ", ".join(f"{name or '(none)'} {count:,}" for name, count in report.splits.items()),
    }
    print_table("data set", [{"": name, "value": value} for name, value in figures.items()])
    if not report.findings:
        echo("no problems found")
        return
    rows = [
        {"severity": f.severity, "count": f"{f.count:,}", "finding": f.what, "next step": f.next_step}
        for f in report.findings
    ]
    print_table("findings", rows)
    examples = [
        {"finding": f.kind, "file": example.file, "detail": example.detail}
        for f in report.findings
        for example in f.examples[:3]
    ]
    print_table("examples (--json lists all)", examples)


def note_left_out(report: Report) -> None:
    """Say which images could not be used, and what was noticed while the data set was read, if anything."""
    if report.bad_images:
        note(f"left out: {report.summary()}")
    elif report.findings:
        note(f"noticed: {report.summary()}; `diptych data inspect` lists them")


def warn_failures(failures: Mapping[str, Sequence[str]], total: int, items: str, value: str) -> None:
    """Warn of items without a result: how many, the reasons, and an example of each.

    Args:
        failures: Reason -> names of the items.
        total: How many items there are.
        items: What they are: "pairs of 'pairs.csv'".
        value: What they lack: "probability".

    Raises:
        DataError: None of them has a result.
    """
    from diptych.errors import DataError

    count = sum(map(len, failures.values()))
    if not count:
        return
    reasons = ", ".join(f"{reason} {len(names):,} (such as '{names[0]}')" for reason, names in failures.items())
    message = f"{count:,} of {total:,} {items} have no {value}: {reasons}"
    if count == total:
        raise DataError(message)
    warn(message)


def warn_notes(notes: ReadingNotes, source: object) -> None:
    """Warn of what was noticed while a table was read: one line for each kind, with an example."""
    from diptych.data.doctor.report import KINDS

    for kind, count in notes.counts.items():
        warn(f"{source}: {count:,} {KINDS[kind][1]}: '{notes.examples[kind][0].file}'")


def _spread(spread: Spread) -> str:
    return f"{spread.min:g} to {spread.max:g}, median {spread.median:g}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit()


def print_scores(title: str, scores: Mapping[str, float]) -> None:
    """Print recall in percent, median rank and MRR in both directions, and their sum of recalls."""
    rows = [
        {
            "direction": name,
            **{f"R@{k} %": f"{scores[f'{key}_r@{k}']:.1f}" for k in (1, 5, 10)},
            "median rank": f"{scores[f'{key}_median_rank']:g}",
            "MRR": f"{scores[f'{key}_mrr']:.3f}",
        }
        for name, key in (("text to image", "t2i"), ("image to text", "i2t"))
    ]
    print_table(title, rows)
    echo(f"rsum {scores['rsum']:.1f}")


def error_panel(error: CycloptsError) -> Panel:
    """The panel for a command line that cannot be parsed; the message is shown as plain text."""
    from cyclopts import CycloptsPanel
    from rich.text import Text

    from diptych.cli.usage import missing_argument

    return CycloptsPanel(Text(printable(missing_argument(error) or error), "default"))
