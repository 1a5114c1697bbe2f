"""`diptych compare`: compare models on the same images, in one report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.options import COMMON, Classes, Common, Count, Format, Output, Split, Templates, check_model
from diptych.cli.show import echo, note, print_json, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.evaluation.compare.comparison import Comparison
    from diptych.evaluation.compare.tables import Cell, Table


def _check_named_model(kind: object, value: str) -> None:
    check_model(kind, value.rpartition("=")[2])


def compare(
    *models: Annotated[str, Parameter(validator=_check_named_model)],
    data: str | None = None,
    split: Split = "test",
    class_data: str | None = None,
    class_split: str = "all",
    classes: Classes = None,
    templates: Templates = "eighty",
    max_images: Count = 1000,
    output: Output = Path("comparison"),
    resamples: Count = 2000,
    seed: int = 0,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Compare models on the same images, in one report.

    The report covers quality, speed and size, and says which differences are statistically significant. Dual encoders
    are evaluated on retrieval, zero-shot classification, matching and compositional checks; captioners on their
    captions. Each model runs in its own process. Models that an earlier run measured with the same settings are not
    measured again.

    Parameters
    ----------
    models
        The models: mini, training runs, model directories or hub names; two or more are compared, and one is reported
        on its own. NAME=MODEL sets the name in the report.
    data
        Data set of images with captions. At least one of --data and --class-data is needed.
    class_data
        Data for zero-shot classification: a folder with one subfolder of images per class, or a data set whose captions
        are class names.
    class_split
        Split of the classification data.
    max_images
        Maximum number of images, sampled at random, for matchers and captioners, which are slow.
    output
        Folder for report.html, report.md, report.json, report.csv and the measurements.
    resamples
        Bootstrap resamples for confidence intervals and significance.
    seed
        Random seed for sampling negatives, compositional checks and examples.
    """
    from diptych.data.formats.read import detect
    from diptych.errors import ConfigError, ModelError

    set_quiet(common.quiet, common.as_json)
    if not models:
        raise ConfigError("no model given; for example: diptych compare mini runs/mine --data DATA")
    if data is None and class_data is None:
        raise ConfigError(
            "no data given; name captioned images with --data, labelled images with --class-data, or both"
        )
    if data is not None:
        detect(data, format)
    from diptych.evaluation.compare.comparison import compare, model_names, read_suite
    from diptych.evaluation.compare.report_files import write_report

    model_names(models)  # before images are read
    suite = read_suite(
        data,
        split=split,
        format=format,
        class_data=class_data,
        class_split=class_split,
        classes=classes,
        prompts=templates,
        limit=max_images,
        seed=seed,
        progress=progress,
    )
    comparison = compare(models, suite, output, device=common.device, resamples=resamples, progress=progress)
    files = write_report(comparison, output, command=shlex.join(["diptych", *sys.argv[1:]]))
    if common.as_json:
        print_json(comparison.to_dict())
    else:
        _print(comparison)
    for file in files:
        note(str(file))
    if comparison.failed:
        raise ModelError("; ".join(f"{name} could not be measured: {why}" for name, why in comparison.failed.items()))


def _print(comparison: Comparison) -> None:
    from diptych.evaluation.compare.tables import cost_table, difference_table, quality_tables, summary_sentences

    costs = cost_table(comparison)
    for table in (*quality_tables(comparison), costs):
        _print_transposed(table)
    if differences := difference_table(comparison):
        rows = [dict(zip(differences.header, map(_cell, row), strict=True)) for row in differences.rows]
        print_table(differences.title, rows)
    echo("* best, or a significant difference; ≈ not significantly worse than the best")
    if costs.note:
        echo(costs.note)
    for sentence in summary_sentences(comparison):
        echo(sentence)


def _print_transposed(table: Table) -> None:
    """Print one row per measure and one column per model, which fits a terminal."""
    rows = [
        {"": name, **{row[0].text: _cell(row[column]) for row in table.rows}}
        for column, name in enumerate(table.header[1:], 1)
    ]
    print_table(table.title, rows)


def _cell(cell: Cell) -> str:
    return f"{cell.text} *" if cell.best else f"{cell.text} ≈" if cell.tied else cell.text
