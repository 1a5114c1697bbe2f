"""`diptych score`: how well generated pictures keep to the prompts that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diptych.cli.show import print_table, progress, say
from diptych.runtime.quoting import ReportTable


def score(*tables: Path, model: str = "mini", out: Path | None = None, device: str = "auto") -> None:
    """Score generated pictures against their prompts (CLIPScore), for each and in all; several tables are compared.

    Parameters
    ----------
    tables
        Tables (CSV, TSV, JSON lines) with a picture and its prompt on each line: image,prompt or imgId,prompt. Give one
        for each image generator.
    model
        Dual encoder that judges. Scores of different ones cannot be compared; published CLIPScores are of
        open_clip/ViT-B-32.
    out
        CSV file for the score of every line.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.errors import ConfigError
    from diptych.evaluation.prompts import score_pictures
    from diptych.matching.match_table import read_match_table
    from diptych.models.dual_encoder import load
    from diptych.runtime.atomic import new_text

    if not tables:
        raise ConfigError("no table is given: diptych score pictures.csv, with the columns image and prompt")
    read = [read_match_table(path) for path in tables]
    encoder = load(model, device)
    scores = [score_pictures(encoder, table, progress=progress) for table in read]
    rows = [{"table": str(path), **_row(each)} for path, each in zip(tables, scores, strict=True)]
    print_table(f"CLIPScore by {model}", rows)
    if out:
        with new_text(out) as file:
            writer = ReportTable(file)
            writer.writerow(("table", "imgId", "prompt", "score"))
            for path, table, each in zip(tables, read, scores, strict=True):
                told = ("" if np.isnan(number) else f"{number:.4f}" for number in each)
                writer.writerows(
                    (path, name, text, number)
                    for name, text, number in zip(table.names, table.texts, told, strict=True)
                )
        say(str(out))


def _row(scores: np.ndarray) -> dict[str, str]:
    """Mean with its 95% interval, median and spread of the lines that have a score."""
    from diptych.evaluation.metrics.bootstrap import bootstrap_interval

    known = scores[~np.isnan(scores)]
    told = {"pictures": f"{len(known):,}", "left out": f"{len(scores) - len(known):,}"}
    if not len(known):
        return {**told, "mean": "-", "95% interval": "-", "median": "-", "worst tenth below": "-"}
    low, high = bootstrap_interval(known, np.arange(len(known)), resamples=200)
    return {
        **told,
        "mean": f"{known.mean():.3f}",
        "95% interval": f"{low:.3f} to {high:.3f}",
        "median": f"{np.median(known):.3f}",
        "worst tenth below": f"{np.quantile(known, 0.1):.3f}",
    }
