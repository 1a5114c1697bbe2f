"""`diptych score`: score generated images against their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.cli.options import COMMON, Common, InputPath, Model, TableOutput
from diptych.cli.show import note_files, print_json, print_table, progress, set_quiet, warn_failures, warn_notes
from diptych.runtime.quoting import ReportTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diptych.matching.match_table import MatchTable


def score(
    *tables: InputPath,
    model: Model = "mini",
    output: TableOutput = None,
    common: Common = COMMON,
) -> None:
    """Score generated images against their prompts (CLIPScore). Several tables are compared.

    Scores of different dual encoders are not comparable; published CLIPScores use open_clip/ViT-B-32.

    Parameters
    ----------
    tables
        One table (CSV, TSV, JSON lines or Parquet) per image generator, with the columns image and prompt (or caption).
    output
        CSV file to write: every row of the tables with its score. Other columns are kept.
    """
    from diptych.errors import ConfigError
    from diptych.matching.match_table import read_match_table

    set_quiet(common.quiet, common.as_json)
    if not tables:
        raise ConfigError("no table given; for example: diptych score images.csv, with the columns image and prompt")
    read = [read_match_table(path) for path in tables]
    for path, table in zip(tables, read, strict=True):
        warn_notes(table.notes, path)
    from diptych.evaluation.prompts import score_images
    from diptych.models.dual_encoder import load

    encoder = load(model, common.device)
    scores = [score_images(encoder, table, progress=progress) for table in read]
    for path, table, values in zip(tables, read, scores, strict=True):
        warn_failures(table.failures(values), len(table.texts), f"rows of '{path}'", "score")
    if output:
        _write(output, tables, read, scores)
    rows = [{"table": str(path), **_row(values)} for path, values in zip(tables, scores, strict=True)]
    if common.as_json:
        print_json(rows)
        return
    print_table(f"CLIPScore by {model}", [_texts(row) for row in rows])
    note_files([output] if output else [])


def _write(
    output: Path, paths: Sequence[Path], tables: Sequence[MatchTable], scores: Sequence[NDArray[np.float64]]
) -> None:
    from diptych.matching.match_table import free_name, merge_columns, merge_rows
    from diptych.runtime.atomic import new_text

    columns = merge_columns(tables)
    sources = [path for path, table in zip(paths, tables, strict=True) for _ in table.texts]
    output.parent.mkdir(parents=True, exist_ok=True)
    with new_text(output) as file:
        writer = ReportTable(file)
        writer.writerow((free_name("table", columns), *columns, free_name("score", columns)))
        for path, row, value in zip(sources, merge_rows(tables), np.concatenate(scores), strict=True):
            cells = (row.get(column, "") for column in columns)
            writer.writerow((path, *cells, "" if np.isnan(value) else f"{value:.4f}"))


def _row(scores: NDArray[np.float64]) -> dict[str, float]:
    """Mean with its 95% interval, median, and the tenth percentile of the rows that have a score."""
    from diptych.evaluation.metrics.bootstrap import bootstrap_interval

    known = scores[~np.isnan(scores)]
    low, high = bootstrap_interval(known, np.arange(len(known)), resamples=200)
    return {
        **{"images": len(known), "left_out": len(scores) - len(known), "mean": float(known.mean())},
        **{"low": float(low), "high": float(high), "median": float(np.median(known))},
        "10th_percentile": float(np.quantile(known, 0.1)),
    }


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "table": row["table"],
        "images": f"{row['images']:,}",
        "left out": f"{row['left_out']:,}",
        "mean": f"{row['mean']:.3f}",
        "95% interval": f"{row['low']:.3f} to {row['high']:.3f}",
        "median": f"{row['median']:.3f}",
        "10th percentile": f"{row['10th_percentile']:.3f}",
    }
