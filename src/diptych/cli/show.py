"""What commands show: lines, tables, reports, JSON, CSV, and progress bars.

All output of the command line goes through this file. Text for people is escaped here, for every command: a name or a
caption is no terminal escape, no markup and no further line. JSON, CSV and paths are for programs and stay exact.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from cyclopts import Parameter, validators

from diptych.runtime.quoting import printable, to_json

if TYPE_CHECKING:
    from cyclopts import CycloptsError
    from PIL import Image
    from rich.console import Console
    from rich.panel import Panel
    from rich.progress import Progress, ProgressColumn

    from diptych.data.doctor.inspect import Report, Spread

Item = TypeVar("Item")
PictureFile = Annotated[Path, Parameter(validator=validators.Path(dir_okay=False, ext=("png", "jpg", "jpeg", "webp")))]


def say(*cells: object) -> None:
    """A line for people, its cells separated by tabs; standard output, so that it stands among the tables."""
    print("\t".join(map(printable, cells)))


def warn(message: object) -> None:
    """A line on standard error."""
    print(f"diptych: {printable(message)}", file=sys.stderr)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """JSON for programs, in ASCII where the output's encoding is not a Unicode one."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(to_json(value, indent=indent, ascii_only=not unicode), flush=True)


class RowWriter(Protocol):
    """What `csv.writer` returns."""

    def writerow(self, row: Iterable[Any], /) -> Any: ...

    def writerows(self, rows: Iterable[Iterable[Any]], /) -> Any: ...


@contextmanager
def csv_output(out: Path | None) -> Iterator[RowWriter]:
    """CSV into a file, or to standard output: exact for programs, escaped where it is a terminal."""
    if out is not None:
        from diptych.runtime.atomic import new_text

        with new_text(out) as file:
            yield csv.writer(file)
    elif sys.stdout.isatty():
        yield csv.writer(_Terminal())
    else:
        yield csv.writer(sys.stdout)


class _Terminal:
    """Lines of CSV on the terminal, escaped."""

    def write(self, line: str) -> None:
        print(printable(line.rstrip("\r\n")))


def print_paths(paths: Iterable[str], end: bytes) -> None:
    """The paths byte for byte as the file system has them; escaped where standard output is a terminal.

    Ended by line breaks, a path that contains one would read as two, so it is left out, and a warning counts those.
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


def write_picture(image: Image.Image, path: Path) -> None:
    """Save a picture, and make its folder first."""
    from diptych.images.contact_sheet import save_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(image, path)


def progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """A progress bar on standard error, with speed and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

    if total == 0:  # kept from an earlier run
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
    """A progress bar of these columns on standard error; write text columns with `text_column`."""
    from rich.progress import Progress

    return Progress(*columns, console=console(stderr=True))


def text_column(text: str) -> ProgressColumn:
    from rich.progress import TextColumn

    return TextColumn(text, markup=False)


def console(*, stderr: bool = False) -> Console:
    """A console on which text is text: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
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
    """The figures of a data set, then a table of what was found with its next steps."""
    figures = {
        "pictures": f"{report.pictures:,}",
        "of them usable": f"{report.pictures - report.bad_pictures:,}",
        "captions": f"{report.captions:,}",
        "captions a picture": _spread(report.captions_per_picture),
        "words a caption": _spread(report.caption_words),
        "splits": ", ".join(f"{name or '(none)'} {count:,}" for name, count in report.splits.items()),
    }
    print_table("data set", [{"": name, "value": value} for name, value in figures.items()])
    if not report.findings:
        say("nothing found to mend")
        return
    rows = [
        {"severity": f.severity, "count": f"{f.count:,}", "found": f.what, "next step": f.next_step}
        for f in report.findings
    ]
    print_table("findings", rows)
    examples = [
        {"finding": f.kind, "file": example.file, "detail": example.detail}
        for f in report.findings
        for example in f.examples[:3]
    ]
    print_table("examples (all kinds and places: --json)", examples)


def say_left_out(report: Report) -> None:
    """Say which pictures could not be used, if any."""
    if report.bad_pictures:
        say(f"left out: {report.summary()}")


def _spread(spread: Spread) -> str:
    return f"{spread.min:g} to {spread.max:g}, median {spread.median:g}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit()


def print_scores(title: str, scores: dict[str, float]) -> None:
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
    say(f"rsum {scores['rsum']:.1f}")


def error_panel(error: CycloptsError) -> Panel:
    """What is wrong with the words of a command line, which are shown as they are."""
    from cyclopts import CycloptsPanel
    from rich.text import Text

    return CycloptsPanel(Text(printable(error), "default"))
