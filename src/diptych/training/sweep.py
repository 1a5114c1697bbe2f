"""A grid of training runs, resumable, compared in one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.runtime.atomic import write_text
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.ranges import check_limits
from diptych.training.settings import grid, make

RESULT = "result.json"


def run_sweep(recipe: ContrastiveRecipe, path: str | Path, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Train `recipe` with every combination of the settings in the YAML file `path`; rows by falling rsum.

    Each run has a folder below `recipe.out`. Finished ones are not trained again, an interrupted one goes on.

    Raises:
        ConfigError: the file names an unknown setting or a value of the wrong type.
    """
    settings = list(grid(path))
    for changes in settings:
        check_limits(make(ContrastiveRecipe, changes))  # refuse all before training any
    rows = [_run(recipe, changes, progress) for changes in settings]
    return sorted(rows, key=lambda row: -float(row["rsum"]))


def _run(recipe: ContrastiveRecipe, changes: dict[str, Any], progress: Progress) -> dict[str, Any]:
    name = "_".join(f"{key}={value}" for key, value in changes.items())
    out = Path(recipe.out) / "".join(char if char.isalnum() or char in "=.-_" else "-" for char in name)
    result = out / RESULT
    if not result.exists():
        outcome = train(replace(recipe, **changes, out=str(out)), resume=True, progress=progress).outcome
        write_text(result, json.dumps({"best": outcome.best, "seconds": outcome.seconds}))
    saved = json.loads(result.read_text("utf-8"))
    recall = {f"{key}_r@{k}": f"{saved['best'][f'{key}_r@{k}']:.1f}" for key in ("t2i", "i2t") for k in (1, 5, 10)}
    shown = {key: str(value) for key, value in changes.items()}
    return {**shown, **recall, "rsum": f"{saved['best']['rsum']:.1f}", "seconds": f"{saved['seconds']:.0f}"}
