"""The measures of a comparison: values, intervals, and significant differences (paired bootstrap)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from diptych.evaluation.metrics.captions import CORPUS_LEVEL, NAMES


@dataclass(frozen=True)
class Measure:
    """One measure of all models that have it; higher is better.

    Attributes:
        key: its key in files.
        group: retrieval, classes, matching, checks or captions.
        title: its name in reports.
        digits: decimals in reports.
        values: model name to value.
        intervals: model name to 95% interval.
        differences: (first, second) to the value of the first minus that of the second, with an interval at a level
            that holds for all pairs together (Bonferroni; `metrics.bootstrap.paired_difference`).
        images: number of images that have a value.
    """

    key: str
    group: str
    title: str
    digits: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    differences: dict[tuple[str, str], Difference]
    images: int

    @property
    def best(self) -> str:
        """The model with the highest value."""
        return max(self.values, key=lambda name: self.values[name])

    def difference(self, first: str, second: str) -> Difference:
        """The difference of any two models, in either order."""
        if (first, second) in self.differences:
            return self.differences[first, second]
        other = self.differences[second, first]
        return replace(other, value=-other.value, low=-other.high, high=-other.low)

    def tied(self, name: str) -> bool:
        """Whether a model is the best, or not significantly worse than the best."""
        return name == self.best or not self.difference(self.best, name).significant


ModelStatistic = Callable[[Measured], Statistic | None]
"""From a model to its statistic, a function of the weights of images; None if the model lacks the measure."""


@dataclass(frozen=True)
class _Column:
    """A measure to compute.

    `statistic` gives it for one model as a function of the weights of `images` images; None if the model lacks it.
    `groups` counts the images that have a value.
    """

    key: str
    group: str
    title: str
    digits: int
    statistic: ModelStatistic
    images: int
    groups: int


def measures(models: Sequence[Measured], suite: Suite, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Measure]:
    """All measures that at least one model has, with intervals and differences from a paired bootstrap over images.

    Args:
        models: the measured models.
        suite: the suite that they were measured on.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    columns = [*_retrieval(suite), *_classes(suite), *_matching(suite), *_checks(suite), *_captions(suite, models)]
    computed: list[Measure] = []
    for images, group in itertools.groupby(columns, key=lambda column: column.images):
        computed += _computed(list(group), models, images, resamples, seed)
    return computed


def _computed(
    columns: list[_Column], models: Sequence[Measured], images: int, resamples: int, seed: int
) -> list[Measure]:
    """Compute columns over the same images on the same draws."""
    cells = [
        (column, model.name, statistic)
        for column in columns
        for model in models
        if (statistic := column.statistic(model)) is not None
    ]
    draws = resample_statistics([statistic for *_, statistic in cells], images, resamples=resamples, seed=seed)
    once = np.ones(images)
    computed = []
    for column in columns:
        cell_of = {name: i for i, (of_cell, name, _) in enumerate(cells) if of_cell is column}
        if cell_of:
            values = {name: cells[i][2](once) for name, i in cell_of.items()}
            computed.append(_measure(column, values, {name: draws[:, i] for name, i in cell_of.items()}))
    return computed


def _measure(column: _Column, values: dict[str, float], draws: dict[str, NDArray[np.float64]]) -> Measure:
    pairs = list(itertools.combinations(values, 2))
    level = 1 - 0.05 / max(1, len(pairs))  # Bonferroni: all differences hold together with 95%
    return Measure(
        column.key,
        column.group,
        column.title,
        column.digits,
        values,
        {name: percentile_interval(draws[name]) for name in values},
        {
            (one, two): paired_difference(values[one], values[two], draws[one], draws[two], level, column.groups)
            for one, two in pairs
        },
        column.groups,
    )


def _of_array(name: str, make: Callable[[NDArray[Any]], Statistic]) -> ModelStatistic:
    """The statistic that `make` gives of a model's array of that name."""

    def statistic(model: Measured) -> Statistic | None:
        values = model.arrays.get(name)
        return None if values is None else make(values)

    return statistic


def _retrieval(suite: Suite) -> list[_Column]:
    if suite.pairs is None:
        return []
    count = len(suite.pairs)
    owner = suite.pairs.flat_captions()[1]
    own = {"found_images": owner, "found_captions": np.unique(owner)}

    def recall(array: str, k: int) -> ModelStatistic:
        return _of_array(array, lambda ranks: mean_statistic(100.0 * (ranks <= k), own[array], count))

    return [
        _Column(f"{short}_r@{k}", "retrieval", f"{words} R@{k} %", 1, recall(array, k), count, len(np.unique(owner)))
        for short, words, array in (
            ("t2i", "text to image", "found_images"),
            ("i2t", "image to text", "found_captions"),
        )
        for k in (1, 5, 10)
    ]


def _classes(suite: Suite) -> list[_Column]:
    if suite.labelled is None:
        return []
    count = len(suite.labelled)

    def accuracy(array: str, k: int) -> ModelStatistic:
        return _of_array(array, lambda ranks: mean_statistic(100.0 * (ranks <= k), np.arange(count), count))

    return [
        _Column(key, "classes", title, 1, accuracy(array, k), count, count)
        for key, title, array, k in (
            ("top1", "zero-shot top-1 %", "class_ranks", 1),
            ("top5", "zero-shot top-5 %", "class_ranks", 5),
            ("adapter_top1", "adapter top-1 %", "adapter_ranks", 1),
            ("probe_top1", "linear probe top-1 %", "probe_ranks", 1),
        )
    ]


def _matching(suite: Suite) -> list[_Column]:
    if suite.pairs is None or suite.labelled_pairs is None:
        return []
    pairs = suite.labelled_pairs

    def auc(rows: NDArray[np.int64]) -> ModelStatistic:
        labels, owner = pairs.labels[rows], pairs.owner[rows]
        return _of_array("match_scores", lambda scores: auc_statistic(scores[rows], labels, owner))

    return [
        _Column(
            f"auc_{name}",
            "matching",
            f"AUC, {name} negatives",
            3,
            auc(pairs.sets[name]),
            len(suite.subset),
            len(np.unique(pairs.owner[pairs.sets[name]])),
        )
        for name in ("random", "hard")
    ]


def _checks(suite: Suite) -> list[_Column]:
    if suite.pairs is None or suite.checks is None:
        return []
    checks, count = suite.checks, len(suite.pairs)

    def right(kind: str) -> ModelStatistic:
        rows = np.flatnonzero(checks.kinds == kind)
        return _of_array("checks_right", lambda values: mean_statistic(100.0 * values[rows], checks.rows[rows], count))

    return [
        _Column(
            kind,
            "checks",
            f"{kind} % (of {number:,})",
            1,
            right(kind),
            count,
            len(np.unique(checks.rows[checks.kinds == kind])),
        )
        for kind, number in checks.counts().items()
    ]


def _captions(suite: Suite, models: Sequence[Measured]) -> list[_Column]:
    """Caption metrics that are means over images; others, such as BLEU, cannot be resampled from values per image."""
    if suite.pairs is None:
        return []
    count = len(suite.subset)
    keys = dict.fromkeys(key for model in models for key in model.summary.get("captions", {}).get("scores", {}))

    def mean(key: str) -> ModelStatistic:
        return _of_array(f"caption_{key}", lambda values: mean_statistic(values, np.arange(count), count))

    return [
        _Column(key, "captions", NAMES.get(key, key), 3, mean(key), count, count)
        for key in keys
        if key not in CORPUS_LEVEL
    ]
