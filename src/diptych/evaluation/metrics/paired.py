"""Which differences between models are real: a paired bootstrap over pictures.

Every resample draws pictures with replacement, and all models are measured on the same draw (Efron & Tibshirani 1993;
Koehn 2004 for systems that answer the same questions). What is easy or hard about a picture is then so for each of
them and drops out of the difference, which two separate intervals would not allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], float]
"""From (pictures,) weights, how often each picture was drawn, to a number; it sees all its values through them."""

RESAMPLES = 2000


def mean_of(values: np.ndarray, owner: np.ndarray, pictures: int) -> Statistic:
    """The mean of values, each of which belongs to a picture: of hits a recall, of right choices an accuracy.

    Args:
        values: (n,) numbers.
        owner: (n,) integers in [0, pictures): the picture of each value.
        pictures: how many pictures there are; those without a value weigh nothing.

    Two captions of picture 0, one of them found, and one of picture 1, found; then picture 1 drawn twice:

    >>> found = mean_of(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), 2)
    >>> round(found(np.array([1, 1])), 3), found(np.array([0, 2]))
    (0.667, 1.0)
    """
    total = np.bincount(owner, weights=values, minlength=pictures)
    count = np.bincount(owner, minlength=pictures).astype(np.float64)

    def measure(weights: np.ndarray) -> float:
        drawn = float(weights @ count)
        return float(weights @ total) / drawn if drawn else float("nan")

    return measure


def auc_of(scores: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> Statistic:
    """The area under the ROC curve of scores against labels (ties count one half), as scikit-learn's, but fast.

    Args:
        scores: (n,) of any range.
        labels: (n,) booleans.
        owner: (n,) the picture that each belongs to.

    >>> auc = auc_of(np.array([0.9, 0.2, 0.3, 0.1]), np.array([True, True, False, False]), np.array([0, 1, 0, 1]))
    >>> auc(np.array([1, 1]))
    0.75
    """
    at = np.unique(scores, return_inverse=True)[1]  # ties share a place
    labels = np.asarray(labels, bool)
    positive, negative, first, second = at[labels], at[~labels], owner[labels], owner[~labels]

    def measure(weights: np.ndarray) -> float:
        matches = np.bincount(positive, weights=weights[first], minlength=at.max() + 1)
        others = np.bincount(negative, weights=weights[second], minlength=at.max() + 1)
        pairs = float(matches.sum() * others.sum())
        return float(matches @ (np.cumsum(others) - others / 2)) / pairs if pairs else float("nan")

    return measure


def resampled(
    statistics: Sequence[Statistic], pictures: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Every statistic on the same draws of `pictures` pictures with replacement: (resamples, statistics) float64."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        weights = np.bincount(random.integers(pictures, size=pictures), minlength=pictures).astype(np.float64)
        rows.append([statistic(weights) for statistic in statistics])
    return np.array(rows)


@dataclass(frozen=True, slots=True)
class Difference:
    """`value` by how much the first is above the second, its interval, and whether that leaves out zero."""

    value: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval (Efron 1979) of (resamples,) draws; a draw on which nothing was defined is left out."""
    ends = (50 * (1 - level), 50 * (1 + level))
    low, high = np.nanpercentile(draws, ends)
    return float(low), float(high)


def paired_difference(
    first: float, second: float, first_draws: np.ndarray, second_draws: np.ndarray, level: float = 0.95
) -> Difference:
    """The difference of two numbers, with the interval of their draws, which `resampled` made together.

    `level` is that of this one difference. Of many made at once, some leave out zero by chance: of `k`, give
    `1 - 0.05 / k` (Bonferroni), and all hold together with 95%.

    >>> draws = np.array([[2.0, 1.0], [3.0, 2.5], [4.0, 3.0]])
    >>> paired_difference(3.0, 2.0, draws[:, 0], draws[:, 1]).real
    True
    """
    low, high = interval(first_draws - second_draws, level)
    return Difference(first - second, low, high)
