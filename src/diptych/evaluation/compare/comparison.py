"""Comparison of several models on the same images: quality, speed, size, and significant differences."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """The result of a comparison.

    Attributes:
        suite: the data that the models were measured on.
        models: the measured models, in the given order.
        measures: all measures of them.
        failed: name of a model that could not be measured to the reason.
    """

    suite: Suite
    models: tuple[Measured, ...]
    measures: tuple[Measure, ...]
    failed: dict[str, str]

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [model.name for model in self.models]

    def group(self, name: str) -> list[Measure]:
        """The measures of one group: retrieval, classes, matching, checks or captions."""
        return [measure for measure in self.measures if measure.group == name]

    def to_dict(self) -> dict[str, object]:
        """All numbers, for JSON."""
        return {
            "source": self.suite.source,
            "models": {model.name: {"model": model.model, **model.summary} for model in self.models},
            "measures": [_measure_dict(measure) for measure in self.measures],
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
    """Measure models on the same data and compare them.

    Measurements are stored in `out` and reused, unless the model's files, the data or the device change.

    Args:
        models: each as for `load`, or `NAME=MODEL` to set its name in the report.
        suite: the data (`read_suite`).
        out: folder for the measurements.
        device: auto, cpu, cuda or mps.
        fresh: measure each model in a new process; otherwise in this one, without memory.
        resamples: number of bootstrap resamples.
        progress: reports progress.

    Returns:
        The comparison; models that could not be measured are in `failed`.

    Raises:
        ConfigError: no model is given, or two share a name.
        ModelError: no model could be measured.
    """
    named = model_names(models)
    folder = Path(out) / "measured"
    measured: list[Measured] = []
    failed: dict[str, str] = {}
    for name, model in named.items():
        try:
            measured.append(_measured(name, model, suite, folder, device, fresh, _labelled(name, progress)))
        except DiptychError as error:
            failed[name] = str(error)
    if not measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ModelError(f"no model could be measured: {reasons}")
    return Comparison(suite, tuple(measured), tuple(measures(measured, suite, resamples=resamples)), failed)


def model_names(models: Sequence[str]) -> dict[str, str]:
    """Short name to model: the part before `=`, or as many trailing path components as make it unique.

    Raises:
        ConfigError: there is no model, or two share a name.

    >>> model_names(["mini", "runs/a/model", "runs/b/model", "first=google/siglip2-base-patch16-224"])
    {'mini': 'mini', 'a': 'runs/a/model', 'b': 'runs/b/model', 'first': 'google/siglip2-base-patch16-224'}
    """
    if not models:
        raise ConfigError("no model is given; give at least one, and two to compare: diptych compare mini runs/mine")
    given = [_given_name(model) for model in models]
    names = [name or _end_of(model, 1) for name, model in given]
    for depth in range(2, 6):
        if len(set(names)) < len(names):
            names = [
                own or (_end_of(model, depth) if names.count(name) > 1 else name)
                for (own, model), name in zip(given, names, strict=True)
            ]
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two models are named '{duplicate}'; give one another name: NAME=MODEL")
    return {name: model for name, (_, model) in zip(names, given, strict=True)}


def _given_name(model: str) -> tuple[str, str]:
    name, sign, rest = model.partition("=")
    return (name, rest) if sign and name and rest and "/" not in name and not Path(model).exists() else ("", model)


def _end_of(model: str, parts: int) -> str:
    """The last `parts` components of a path, without the trailing `model` of a run folder."""
    steps = [part for part in re.split(r"[/\\]+", model) if part not in ("", ".")]
    if len(steps) > 1 and steps[-1] == "model":
        steps = steps[:-1]
    return "/".join(steps[-parts:]) or model


def _measured(
    name: str, model: str, suite: Suite, folder: Path, device: str, fresh: bool, progress: Progress
) -> Measured:
    key = _key(model, suite, device, fresh)
    new = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{key}"
    entry = next(folder.glob(f"*-{key}"), new)  # it may have been measured under another name
    if not entry.exists():
        if fresh:
            data = folder / f"suite-{suite.key}"
            suite.save(data)
            measure_fresh(model, data, entry, device=device, progress=progress)
        else:
            from diptych.evaluation.compare.measure import measure

            measure(model, suite, device=device, progress=progress).save(entry)
    return Measured.load(entry, name)


def _labelled(name: str, progress: Progress) -> Progress:
    """Progress with the name of the model in its label."""
    return lambda items, total, label: progress(items, total, f"{name}: {label}")


def _key(model: str, suite: Suite, device: str, fresh: bool) -> str:
    """A hash of the suite, the device, and the names, sizes and modification times of the model's files."""
    folder = model_directory(model)
    files = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    content = json.dumps([suite.key, device, fresh, files])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _measure_dict(measure: Measure) -> dict[str, object]:
    return {
        "key": measure.key,
        "group": measure.group,
        "title": measure.title,
        "values": measure.values,
        "intervals": {name: list(ends) for name, ends in measure.intervals.items()},
        "best": measure.best,
        "differences": [
            {
                "first": first,
                "second": second,
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
                "real": difference.significant,
            }
            for (first, second), difference in measure.differences.items()
        ],
    }
