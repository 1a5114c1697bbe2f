"""What commands show: lines, tables, reports, and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from PIL import Image

    from diptych.doctor import Report, Spread

Item = TypeVar("Item")
PictureFile = Annotated[Path, Parameter(validator=validators.Path(dir_okay=False, ext=("png", "jpg", "jpeg", "webp")))]


def say(text: str) -> None:
    """A line for people; standard output, so that it stands among the tables."""
    print(text)


def write_picture(image: Image.Image, path: Path) -> None:
    """Save a picture, and make its folder first."""
    from diptych.grids import save_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(image, path)


def progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """A progress bar on standard error, with speed and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if total == 0:  # kept from an earlier run
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=label)


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float) or _is_number(row[name]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


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
