"""How good each model is by each measure, and which differences between them are real."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.evaluation.compare.measurements import Measured
from diptych.evaluation.compare.suite import Suite
from diptych.evaluation.metrics.bootstrap import (
    RESAMPLES,
    Difference,
    Statistic,
    auc_statistic,
    mean_statistic,
    paired_difference,
    percentile_interval,
    resample_statistics,
)
from diptych.evaluation.metrics.captions import NAMES


@dataclass(frozen=True)
class Measure:
    """One column of the report, more is better: `values` and `intervals` (95%) of each model that it can be taken of.

    `differences` are of each two models, (first, second): first less second, at a level that holds for all of them at
    once (`metrics.paired.paired_difference`).
    """

    key: str
    group: str
    title: str
    digits: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    differences: dict[tuple[str, str], Difference]

    @property
    def best(self) -> str:
        return max(self.values, key=lambda name: self.values[name])

    def difference(self, first: str, second: str) -> Difference:
        """Of any two models, in either order."""
        if (first, second) in self.differences:
            return self.differences[first, second]
        other = self.differences[second, first]
        return Difference(-other.value, -other.high, -other.low)

    def tied(self, name: str) -> bool:
        """Whether a model is the best, or its difference from the best may be chance."""
        return name == self.best or not self.difference(self.best, name).significant


@dataclass(frozen=True)
class _Column:
    """How a measure is computed from what was measured of one model; None where the model lacks it."""

    key: str
    group: str
    title: str
    digits: int
    statistic: Callable[[Measured], Statistic | None]
    pictures: int


def measures(models: Sequence[Measured], suite: Suite, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Measure]:
    """Every measure that at least one model has, with intervals and differences of a paired bootstrap over pictures."""
    columns = [*_retrieval(suite), *_classes(suite), *_matching(suite), *_checks(suite), *_captions(suite, models)]
    found: list[Measure] = []
    for pictures, together in itertools.groupby(columns, key=lambda column: column.pictures):
        found += _measured(list(together), models, pictures, resamples, seed)
    return found


def _measured(
    columns: list[_Column], models: Sequence[Measured], pictures: int, resamples: int, seed: int
) -> list[Measure]:
    """Columns over the same pictures, on the same draws."""
    cells = [
        (column, model.name, statistic)
        for column in columns
        for model in models
        if (statistic := column.statistic(model)) is not None
    ]
    draws = resample_statistics([statistic for *_, statistic in cells], pictures, resamples=resamples, seed=seed)
    every = np.ones(pictures)
    found = []
    for column in columns:
        at = {name: number for number, (its, name, _) in enumerate(cells) if its is column}
        if at:
            values = {name: cells[number][2](every) for name, number in at.items()}
            found.append(_measure(column, values, {name: draws[:, number] for name, number in at.items()}))
    return found


def _measure(column: _Column, values: dict[str, float], draws: dict[str, np.ndarray]) -> Measure:
    pairs = list(itertools.combinations(values, 2))
    level = 1 - 0.05 / max(1, len(pairs))  # Bonferroni: all of a measure's differences hold together with 95%
    return Measure(
        column.key,
        column.group,
        column.title,
        column.digits,
        values,
        {name: percentile_interval(draws[name]) for name in values},
        {(one, two): paired_difference(values[one], values[two], draws[one], draws[two], level) for one, two in pairs},
    )


def _retrieval(suite: Suite) -> list[_Column]:
    if suite.pairs is None:
        return []
    count = len(suite.pairs)
    owner = suite.pairs.flat_captions()[1]
    own = {"found_pictures": owner, "found_captions": np.unique(owner)}

    def recall(array: str, k: int) -> Callable[[Measured], Statistic | None]:
        def statistic(model: Measured) -> Statistic | None:
            ranks = model.arrays.get(array)
            return None if ranks is None else mean_statistic(100.0 * (ranks <= k), own[array], count)

        return statistic

    return [
        _Column(f"{short}_r@{k}", "retrieval", f"{words} R@{k} %", 1, recall(array, k), count)
        for short, words, array in (
            ("t2i", "text to image", "found_pictures"),
            ("i2t", "image to text", "found_captions"),
        )
        for k in (1, 5, 10)
    ]


def _classes(suite: Suite) -> list[_Column]:
    if suite.labelled is None:
        return []
    count = len(suite.labelled)

    def accuracy(array: str, k: int) -> Callable[[Measured], Statistic | None]:
        def statistic(model: Measured) -> Statistic | None:
            ranks = model.arrays.get(array)
            return None if ranks is None else mean_statistic(100.0 * (ranks <= k), np.arange(count), count)

        return statistic

    return [
        _Column(key, "classes", title, 1, accuracy(array, k), count)
        for key, title, array, k in (
            ("top1", "zero-shot top-1 %", "class_ranks", 1),
            ("top5", "zero-shot top-5 %", "class_ranks", 5),
            ("adapter_top1", "adapter top-1 %", "adapter_ranks", 1),
            ("probe_top1", "linear probe top-1 %", "probe_ranks", 1),
        )
    ]


def _matching(suite: Suite) -> list[_Column]:
    if suite.pairs is None or suite.judged is None:
        return []
    judged = suite.judged

    def auc(at: np.ndarray) -> Callable[[Measured], Statistic | None]:
        def statistic(model: Measured) -> Statistic | None:
            scores = model.arrays.get("match_scores")
            return None if scores is None else auc_statistic(scores[at], judged.labels[at], judged.owner[at])

        return statistic

    return [
        _Column(f"auc_{name}", "matching", f"AUC, {name} negatives", 3, auc(judged.sets[name]), len(suite.some))
        for name in ("random", "hard")
    ]


def _checks(suite: Suite) -> list[_Column]:
    if suite.pairs is None or suite.checks is None:
        return []
    checks, count = suite.checks, len(suite.pairs)

    def right(kind: str) -> Callable[[Measured], Statistic | None]:
        at = np.flatnonzero(checks.kinds == kind)

        def statistic(model: Measured) -> Statistic | None:
            found = model.arrays.get("checks_right")
            return None if found is None else mean_statistic(100.0 * found[at], checks.rows[at], count)

        return statistic

    return [
        _Column(kind, "checks", f"{kind} % (of {checked:,})", 1, right(kind), count)
        for kind, checked in checks.counts().items()
    ]


def _captions(suite: Suite, models: Sequence[Measured]) -> list[_Column]:
    """Metrics of which the whole is the mean of the pictures; of others, such as BLEU, no resample can be taken."""
    if suite.pairs is None:
        return []
    count = len(suite.some)
    keys = dict.fromkeys(key for model in models for key in model.told.get("captions", {}).get("scores", {}))
    means = [key for key in keys if all(_is_mean(model, key) for model in models)]

    def mean(key: str) -> Callable[[Measured], Statistic | None]:
        def statistic(model: Measured) -> Statistic | None:
            values = model.arrays.get(f"caption_{key}")
            return None if values is None else mean_statistic(values, np.arange(count), count)

        return statistic

    return [_Column(key, "captions", NAMES.get(key, key), 3, mean(key), count) for key in means]


def _is_mean(model: Measured, key: str) -> bool:
    values = model.arrays.get(f"caption_{key}")
    return values is None or abs(float(values.mean()) - model.told["captions"]["scores"][key]) < 1e-6
