"""A sweep: training runs over a grid of settings, compared in one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from diptych.runtime.atomic import write_text
from diptych.runtime.progress import Progress, silent
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.ranges import check_limits
from diptych.training.recipe_files import Settings, grid, make
from diptych.training.run import has_checkpoint

RESULT = "result.json"


def run_sweep(recipe: ContrastiveRecipe, path: str | Path, *, progress: Progress = silent) -> list[dict[str, str]]:
    """Train `recipe` with every combination of the settings in the YAML file `path`.

    Each run has its own folder in `recipe.out`. Finished runs are skipped, and an interrupted run is resumed.

    Returns:
        One row per run, by descending rsum: its settings, the validation recall in percent and the seconds it took.

    Raises:
        ConfigError: the file names an unknown setting, or a value has the wrong type or is out of range.
    """
    combinations = list(grid(path))
    for settings in combinations:
        check_limits(make(ContrastiveRecipe, settings))  # all are checked before the first run
    rows = [_run(recipe, settings, progress) for settings in combinations]
    return sorted(rows, key=lambda row: -float(row["rsum"]))


def _run(recipe: ContrastiveRecipe, settings: Settings, progress: Progress) -> dict[str, str]:
    name = "_".join(f"{key}={value}" for key, value in settings.items())
    out = Path(recipe.out) / "".join(char if char.isalnum() or char in "=.-_" else "-" for char in name)
    result = out / RESULT
    if not result.exists():
        run = replace(recipe, **settings, out=str(out))
        outcome = train(run, resume=has_checkpoint(out), progress=progress).outcome
        write_text(result, json.dumps({"best": outcome.best, "seconds": outcome.seconds}))
    saved = json.loads(result.read_text("utf-8"))
    recall = {f"{key}_r@{k}": f"{saved['best'][f'{key}_r@{k}']:.1f}" for key in ("t2i", "i2t") for k in (1, 5, 10)}
    values = {key: str(value) for key, value in settings.items()}
    return {**values, **recall, "rsum": f"{saved['best']['rsum']:.1f}", "seconds": f"{saved['seconds']:.0f}"}
