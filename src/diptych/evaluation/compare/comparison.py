"""Several models on the same pictures: how good, how fast, how large, and which differences are real."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.errors import ConfigError, DiptychError, ModelError
from diptych.evaluation.compare.differences import Measure, measures
from diptych.evaluation.compare.measurements import Measured
from diptych.evaluation.compare.suite import Suite, read_suite
from diptych.evaluation.compare.worker import measure_fresh
from diptych.evaluation.metrics.bootstrap import RESAMPLES
from diptych.models.checkpoints import model_directory
from diptych.runtime.progress import Progress, silent

__all__ = ["Comparison", "Measure", "Measured", "Suite", "compare", "read_suite"]


@dataclass(frozen=True)
class Comparison:
    """The models in the order in which they were named, what they were asked, and every measure of them.

    `failed` maps the name of a model that could not be measured to the reason.
    """

    suite: Suite
    models: tuple[Measured, ...]
    measures: tuple[Measure, ...]
    failed: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models]

    def group(self, name: str) -> list[Measure]:
        """The measures of one group: retrieval, classes, matching, checks, captions."""
        return [measure for measure in self.measures if measure.group == name]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "source": self.suite.source,
            "models": {model.name: {"model": model.model, **model.told} for model in self.models},
            "measures": [_measure_told(measure) for measure in self.measures],
            "failed": self.failed,
        }


def compare(
    models: Sequence[str],
    suite: Suite,
    out: str | Path,
    *,
    device: str = "auto",
    fresh: bool = True,
    resamples: int = RESAMPLES,
    progress: Progress = silent,
) -> Comparison:
    """Measure every model by `suite` (`read_suite`), each in a process of its own, and keep what was found in `out`.

    A model is named as for `load`, or `NAME=MODEL` to call it NAME in the report. What was measured is not measured
    again: files that changed, other data or another device make it new. A model that fails is told in `failed`. With
    `fresh=False` all is done in this process, and memory is not told.

    Raises:
        ConfigError: no model is named, or two share a name.
    """
    named = model_names(models)
    folder = Path(out) / "measured"
    found: list[Measured] = []
    failed: dict[str, str] = {}
    for name, model in named.items():
        try:
            found.append(_kept_or_measured(name, model, suite, folder, device, fresh, _naming(name, progress)))
        except DiptychError as error:
            failed[name] = str(error)
    if not found:
        raise ModelError("no model could be measured: " + "; ".join(f"{name}: {says}" for name, says in failed.items()))
    return Comparison(suite, tuple(found), tuple(measures(found, suite, resamples=resamples)), failed)


def model_names(models: Sequence[str]) -> dict[str, str]:
    """Short name -> model: what stands before `=`, or as much of the end of its path as tells it from the others.

    Raises:
        ConfigError: there is none, or a name stands twice.

    >>> model_names(["mini", "runs/a/model", "runs/b/model", "first=google/siglip2-base-patch16-224"])
    {'mini': 'mini', 'a': 'runs/a/model', 'b': 'runs/b/model', 'first': 'google/siglip2-base-patch16-224'}
    """
    if not models:
        raise ConfigError("no model is named; give at least one, and two to compare: diptych compare mini runs/mine")
    given = [_given_name(model) for model in models]
    names = [name or _end_of(model, 1) for name, model in given]
    for depth in range(2, 6):
        if len(set(names)) < len(names):
            again = zip(given, names, strict=True)
            names = [own or (_end_of(model, depth) if names.count(name) > 1 else name) for (own, model), name in again]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two models are called '{twice}'; give one another name: NAME=MODEL")
    return {name: model for name, (_, model) in zip(names, given, strict=True)}


def _given_name(model: str) -> tuple[str, str]:
    name, sign, rest = model.partition("=")
    return (name, rest) if sign and name and rest and "/" not in name and not Path(model).exists() else ("", model)


def _end_of(model: str, parts: int) -> str:
    """The last parts of a path, without the `model` of a run's folder."""
    steps = [part for part in re.split(r"[/\\]+", model) if part not in ("", ".")]
    if len(steps) > 1 and steps[-1] == "model":
        steps = steps[:-1]
    return "/".join(steps[-parts:]) or model


def _kept_or_measured(
    name: str, model: str, suite: Suite, folder: Path, device: str, fresh: bool, progress: Progress
) -> Measured:
    key = _key(model, suite, device, fresh)
    named = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{key}"
    entry = next(folder.glob(f"*-{key}"), named)  # under whatever name it was measured
    if not entry.exists():
        if fresh:
            asked = folder / f"suite-{suite.key}"
            suite.save(asked)
            measure_fresh(model, asked, entry, device=device, progress=progress)
        else:
            from diptych.evaluation.compare.measure import measure

            measure(model, suite, device=device, progress=progress).save(entry)
    return Measured.load(entry, name)


def _naming(name: str, progress: Progress) -> Progress:
    """Progress that says of which model it is."""
    return lambda items, total, label: progress(items, total, f"{name}: {label}")


def _key(model: str, suite: Suite, device: str, fresh: bool) -> str:
    """A hash of what is asked, where, and of the model's files by name, size and time."""
    folder = model_directory(model)
    files = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    told = json.dumps([suite.key, device, fresh, files])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _measure_told(measure: Measure) -> dict[str, Any]:
    return {
        "key": measure.key,
        "group": measure.group,
        "title": measure.title,
        "values": measure.values,
        "intervals": {name: list(ends) for name, ends in measure.intervals.items()},
        "best": measure.best,
        "differences": [
            {
                "first": one,
                "second": two,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "real": found.significant,
            }
            for (one, two), found in measure.differences.items()
        ],
    }
