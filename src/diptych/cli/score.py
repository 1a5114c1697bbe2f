"""`diptych score`: score generated images against their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diptych.cli.options import Device, OptionalOutput, Quiet
from diptych.cli.show import note_files, print_table, progress, set_quiet, warn_notes
from diptych.runtime.quoting import ReportTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diptych.matching.match_table import MatchTable


def score(
    *tables: Path, model: str = "mini", output: OptionalOutput = None, device: Device = "auto", quiet: Quiet = False
) -> None:
    """Score generated images against their prompts (CLIPScore). Several tables are compared.

    Parameters
    ----------
    tables
        One table (CSV, TSV or JSON lines) per image generator, with the columns image and prompt, or imgId and prompt.
    model
        Dual encoder that scores. Scores of different encoders are not comparable; published CLIPScores use
        open_clip/ViT-B-32.
    output
        CSV file for the score of every row.
    """
    from diptych.errors import ConfigError
    from diptych.evaluation.prompts import score_images
    from diptych.matching.match_table import read_match_table
    from diptych.models.dual_encoder import load

    set_quiet(quiet)
    if not tables:
        raise ConfigError("no table is given; run diptych score images.csv, with the columns image and prompt")
    read = [read_match_table(path) for path in tables]
    for path, table in zip(tables, read, strict=True):
        warn_notes(table.notes, path)
    encoder = load(model, device)
    scores = [score_images(encoder, table, progress=progress) for table in read]
    rows = [{"table": str(path), **_row(values)} for path, values in zip(tables, scores, strict=True)]
    print_table(f"CLIPScore by {model}", rows)
    if output:
        _write(output, tables, read, scores)
        note_files([output])


def _write(
    output: Path, paths: Sequence[Path], tables: Sequence[MatchTable], scores: Sequence[NDArray[np.float64]]
) -> None:
    from diptych.runtime.atomic import new_text

    with new_text(output) as file:
        writer = ReportTable(file)
        writer.writerow(("table", "imgId", "prompt", "score"))
        for path, table, values in zip(paths, tables, scores, strict=True):
            cells = ("" if np.isnan(value) else f"{value:.4f}" for value in values)
            writer.writerows(
                (path, name, text, cell) for name, text, cell in zip(table.names, table.texts, cells, strict=True)
            )


def _row(scores: NDArray[np.float64]) -> dict[str, str]:
    """Mean with its 95% interval, median, and the tenth percentile of the rows that have a score."""
    from diptych.evaluation.metrics.bootstrap import bootstrap_interval

    known = scores[~np.isnan(scores)]
    counts = {"images": f"{len(known):,}", "left out": f"{len(scores) - len(known):,}"}
    if not len(known):
        return {**counts, "mean": "-", "95% interval": "-", "median": "-", "10th percentile": "-"}
    low, high = bootstrap_interval(known, np.arange(len(known)), resamples=200)
    return {
        **counts,
        "mean": f"{known.mean():.3f}",
        "95% interval": f"{low:.3f} to {high:.3f}",
        "median": f"{np.median(known):.3f}",
        "10th percentile": f"{np.quantile(known, 0.1):.3f}",
    }
