"""The command line: a thin shell over the library, and the one place that prints and exits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from diptych.errors import DiptychError
from diptych.recipes.config import make, read_yaml
from diptych.recipes.contrastive import ContrastiveRecipe

if TYPE_CHECKING:
    from diptych.doctor import Report, Spread

Item = TypeVar("Item")


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Tell a command, in its hidden `given`, which flags stand on the command line: those win over `--config`."""
    names = (argument.name.removeprefix("--") for argument in arguments if argument.tokens)
    given = sorted({name.split(".")[0].replace("-", "_") for name in names})
    if given and any(argument.name == "--given" for argument in arguments):
        Dict({"given": given}, use_commands_as_keys=False, source="command line")(app, commands, arguments)


app = App(
    name="diptych",
    help="Train, measure and search with image-text models on your own pictures and captions.",
    version=lambda: __import__("diptych").__version__,
)
data_app = App(name="data", help="Look at data sets, and draw one to try things on.")
train_app = App(name="train", help="Train models.", config=note_given)
eval_app = App(name="eval", help="Measure models by the field's protocols.")
for group in (data_app, train_app, eval_app):
    app.command(group)


@data_app.command
def inspect(
    path: str,
    *,
    format: str | None = None,
    sheet: Path | None = None,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Check a data set: broken pictures, empty captions, duplicates across splits, and more.

    Parameters
    ----------
    path
        A folder, a caption file, tar shards or a hub name.
    format
        The data set's format; recognised by itself when not given.
    sheet
        Write a contact sheet of some pictures with their captions to this PNG.
    as_json
        Print the report as JSON.
    """
    from diptych import doctor
    from diptych.formats import detect, read_pairs

    pairs = read_pairs(path, format)
    source = detect(path, format)
    texts = [file for file in source.paths if file.suffix in (".txt", ".csv", ".tsv", ".json", ".jsonl")]
    report = doctor.inspect(pairs, folder=source.folder, caption_files=texts, progress=progress)
    if sheet:
        doctor.contact_sheet(pairs).save(sheet)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    _print_report(report)
    if sheet:
        say(f"contact sheet: {sheet}")


@data_app.command
def draw(out: Path, *, count: int = 600, size: int = 128, seed: int = 0) -> None:
    """Draw a captioned set of coloured scenes, to try everything without data of your own.

    Parameters
    ----------
    out
        Folder for the pictures and `captions.txt`.
    count
        Pictures to draw.
    size
        Side of each picture in pixels.
    seed
        Another seed draws other scenes.
    """
    from diptych.samples import draw_scenes

    draw_scenes(out, count=count, size=size, seed=seed)
    say(f"{count} pictures with 5 captions each: {out}")


@train_app.command
def contrastive(
    *,
    recipe: Annotated[ContrastiveRecipe, Parameter(name="*")] = ContrastiveRecipe(),  # noqa: B008 - a flag's default
    config: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    sweep: Path | None = None,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> None:
    """Train a dual encoder on pictures with captions.

    Parameters
    ----------
    config
        YAML file of settings; flags on the command line win over it.
    resume
        Go on with an interrupted run, exactly where its last checkpoint was.
    sweep
        YAML file of settings, each with a list of values: every combination is trained, and one table compares them.
        An interrupted sweep goes on where it was.
    """
    from diptych.recipes.contrastive import train

    if config:
        flags = {name: value for name, value in asdict(recipe).items() if name in given}
        recipe = make(ContrastiveRecipe, {**read_yaml(config), **flags})
    if sweep:
        from diptych.recipes.sweep import run_sweep

        _print_table(f"sweep of {sweep.name}, validation recall in %", run_sweep(recipe, sweep, progress=progress))
        return
    result = train(recipe, resume=resume, progress=progress)
    say(f"{result.sizes['train']:,} pictures to train on, {result.sizes['val']:,} for validation")
    if result.left_out.bad_pictures:
        say(f"left out: {result.left_out.summary()}")
    outcome = result.outcome
    early = ", stopped early" if outcome.stopped_early else ""
    say(f"{outcome.steps:,} steps in {outcome.seconds:,.0f} s{early}; best epoch: {outcome.best_epoch + 1}")
    _print_scores("validation", outcome.best)
    say(f"model: {result.model}")


@eval_app.command
def retrieval(
    model: str,
    *,
    data: str,
    split: str = "test",
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure image-to-text and text-to-image retrieval (Karpathy protocol).

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    data
        Data set to measure on.
    split
        Split to measure on: test, val (also called dev), train, or all.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.dual import load
    from diptych.evaluate import evaluate_retrieval
    from diptych.formats import read_pairs

    pairs = read_pairs(data, format).split(split)
    scores, left_out = evaluate_retrieval(load(model, device), pairs, progress=progress)
    if as_json:
        print(json.dumps(scores.as_dict() | {"left_out": left_out.bad_pictures}, indent=2))
        return
    if left_out.bad_pictures:
        say(f"left out: {left_out.summary()}")
    _print_scores(
        f"{split} split: {scores.image_to_text.queries:,} pictures, {scores.text_to_image.queries:,} captions",
        scores.as_dict(),
    )


@app.command
def find(
    model: str,
    text: str,
    *,
    data: str,
    k: Annotated[int, Parameter(("--k", "-k"))] = 9,
    split: str = "all",
    format: str | None = None,
    grid: Path | None = Path("matches.png"),
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Find the pictures of a data set that match a text, as a table and as a grid of pictures.

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    text
        What the pictures should show.
    data
        Data set to search in.
    k
        Pictures to find.
    split
        Split to search in, or all.
    format
        The data set's format; recognised by itself when not given.
    grid
        PNG to write the pictures to.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the matches as JSON.
    """
    from diptych.dual import load
    from diptych.formats import read_pairs
    from diptych.search import find_matches, match_grid

    pairs = read_pairs(data, format).split(split)
    matches = find_matches(load(model, device), text, pairs, k, progress=progress)
    if grid:
        match_grid(matches, text).save(grid)
    if as_json:
        rows = [{"image_id": m.image_id, "score": m.score, "captions": list(m.captions)} for m in matches]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    rows = [
        {"rank": rank, "score": f"{m.score:.3f}", "picture": m.image_id, "first caption": (m.captions or ("",))[0]}
        for rank, m in enumerate(matches, 1)
    ]
    _print_table(f"“{text}” among {len(pairs):,} pictures", rows)
    if grid:
        say(f"pictures: {grid}")


def main() -> None:
    """Run the command line; a known error becomes one sentence on standard error."""
    try:
        app(exit_on_error=True)
    except DiptychError as error:
        print(f"diptych: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndiptych: interrupted; training goes on from its last checkpoint with --resume", file=sys.stderr)
        sys.exit(130)


def say(text: str) -> None:
    """A line for people; standard output, so that it stands among the tables."""
    print(text)


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


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float) or _is_number(row[name]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


def _print_report(report: Report) -> None:
    """The figures of a data set, then a table of what was found with its next steps."""
    figures = {
        "pictures": f"{report.pictures:,}",
        "of them usable": f"{report.pictures - report.bad_pictures:,}",
        "captions": f"{report.captions:,}",
        "captions a picture": _spread(report.captions_per_picture),
        "words a caption": _spread(report.caption_words),
        "splits": ", ".join(f"{name or '(none)'} {count:,}" for name, count in report.splits.items()),
    }
    _print_table("data set", [{"": name, "value": value} for name, value in figures.items()])
    if not report.findings:
        say("nothing found to mend")
        return
    rows = [
        {"severity": f.severity, "count": f"{f.count:,}", "found": f.what, "next step": f.next_step}
        for f in report.findings
    ]
    _print_table("findings", rows)
    examples = [
        {"finding": f.kind, "file": example.file, "detail": example.detail}
        for f in report.findings
        for example in f.examples[:3]
    ]
    _print_table("examples (all kinds and places: --json)", examples)


def _spread(spread: Spread) -> str:
    return f"{spread.min:g} to {spread.max:g}, median {spread.median:g}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit()


def _print_scores(title: str, scores: dict[str, float]) -> None:
    rows = [
        {
            "direction": name,
            **{f"R@{k} %": f"{scores[f'{key}_r@{k}']:.1f}" for k in (1, 5, 10)},
            "median rank": f"{scores[f'{key}_median_rank']:g}",
            "MRR": f"{scores[f'{key}_mrr']:.3f}",
        }
        for name, key in (("text to image", "t2i"), ("image to text", "i2t"))
    ]
    _print_table(title, rows)
    say(f"rsum {scores['rsum']:.1f}")


if __name__ == "__main__":
    main()
