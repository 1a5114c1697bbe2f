"""`diptych compare`: several models on the same pictures, one report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.show import print_table, progress, say

if TYPE_CHECKING:
    from diptych.evaluation.compare.tables import Cell, Table


def compare(
    *models: str,
    data: str | None = None,
    split: str = "test",
    class_data: str | None = None,
    class_split: str = "all",
    classes: str | None = None,
    prompts: str = "eighty",
    most: int = 1000,
    out: Path = Path("comparison"),
    resamples: int = 2000,
    seed: int = 0,
    format: str | None = None,
    device: str = "auto",
) -> None:
    """Compare models on the same pictures: how good, how fast, how large, and which differences are real.

    Dual encoders are measured by retrieval, zero-shot classification, matching and compositional checks, captioners by
    their captions, and beside each what it costs. Each is measured in a process of its own. Writes report.html,
    report.md, report.json and report.csv; a model that was measured already is not measured again.

    Parameters
    ----------
    models
        Two or more: mini, training runs, model directories, hub names. NAME=MODEL calls one NAME in the report.
    data
        Data set of pictures with captions.
    split
        Its split: test, val (also called dev), train, or all.
    class_data
        For zero-shot classification: a folder with one folder of pictures for each class, or captions that are classes.
    class_split
        Its split.
    classes
        The classes to choose among: a file with a class a line, imagenet, or imagenet-clip; those of the data if not
        given.
    prompts
        Templates that the class names are put into: one, seven, or eighty.
    most
        Matchers and captioners, which are slow, see at most this many pictures, drawn by chance.
    out
        Folder for the report and for what was measured.
    resamples
        Draws of the bootstrap that says which differences are real.
    seed
        Another seed draws other negatives, checks and examples.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.errors import ModelError
    from diptych.evaluation.compare.comparison import compare, model_names, read_suite
    from diptych.evaluation.compare.report_files import write_report
    from diptych.evaluation.compare.tables import cost_table, difference_table, quality_tables, said

    model_names(models)  # before pictures are read
    suite = read_suite(
        data,
        split=split,
        format=format,
        class_data=class_data,
        class_split=class_split,
        classes=classes,
        prompts=prompts,
        most=most,
        seed=seed,
        progress=progress,
    )
    comparison = compare(models, suite, out, device=device, resamples=resamples, progress=progress)
    for table in (*quality_tables(comparison), cost_table(comparison)):
        _print(table)
    if differences := difference_table(comparison):
        rows = [dict(zip(differences.header, map(_shown, row), strict=True)) for row in differences.rows]
        print_table(differences.title, rows)
    say("* the best, or a real difference; ≈ behind the best by no more than chance explains")
    if note := cost_table(comparison).note:
        say(note)
    for sentence in said(comparison):
        say(sentence)
    command = shlex.join(["diptych", *sys.argv[1:]])
    for file in write_report(comparison, out, command=command):
        say(str(file))
    if comparison.failed:
        raise ModelError("; ".join(f"{name} could not be measured: {why}" for name, why in comparison.failed.items()))


def _print(table: Table) -> None:
    """A row a measure and a column a model, which fits a terminal."""
    rows = [
        {"": name, **{row[0].text: _shown(row[at]) for row in table.rows}}
        for at, name in enumerate(table.header[1:], 1)
    ]
    print_table(table.title, rows)


def _shown(cell: Cell) -> str:
    return f"{cell.text} *" if cell.best else f"{cell.text} ≈" if cell.tied else cell.text
