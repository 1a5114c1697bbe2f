"""Bootstrap confidence intervals and paired differences between models (Efron 1979).

Whole groups are drawn with replacement, since observations of one group, such as the captions of one image, are not
independent. A resample is a vector of weights: how often each group was drawn. Statistics are functions of the weights,
so several of them, or several models, can be evaluated on the same draws (a paired bootstrap; Efron and Tibshirani
1993, Koehn 2004): variance that they share then cancels in their difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.float64]], float]
"""A function of (groups,) weights that returns a number, NaN where it is undefined."""

RESAMPLES = 2000


def bootstrap_interval(
    values: NDArray[np.floating],
    groups: NDArray[np.integer],
    statistic: Callable[[NDArray[np.floating]], float] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of grouped values.

    For the recall of text-to-image retrieval, pass `ranks.text_to_image <= 1` with `image_index` as the groups; for
    image-to-text retrieval, `ranks.image_to_text <= 1` with `ranks.images`. Queries are resampled; the candidates that
    they searched are not.

    Args:
        values: (n,) one number for each query.
        groups: (n,) integers; values with equal ones are drawn together.
        statistic: from the values of a resample, in unspecified order, to a number.
        level: share of the resamples inside the interval, in (0, 1).
        resamples: number of resamples.
        seed: the same arguments give the same interval.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: `values` is empty, or `groups` has another length.

    Without variance the interval is a point:

    >>> bootstrap_interval(np.array([2.0, 2.0, 2.0]), np.array([0, 0, 1]))
    (2.0, 2.0)
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"{len(values)} values and {len(groups)} groups; give one group a value, and at least one")
    values = np.asarray(values)
    distinct, group_of = np.unique(groups, return_inverse=True)
    draws = bootstrap_weights(len(distinct), resamples=resamples, seed=seed)
    return percentile_interval(
        [statistic(np.repeat(values, weights.astype(np.int64)[group_of])) for weights in draws], level
    )


def bootstrap_intervals(
    measure: Callable[[NDArray[np.float64]], Mapping[str, float]],
    groups: NDArray[np.integer],
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of several measures that accept a weight for each observation.

    Args:
        measure: from (n,) weights to numbers by name, as `lambda w: matching_metrics(p, y, weights=w).to_dict()`. The
            weight of an observation is how often its group was drawn.
        groups: (n,) integers from 0, the group (image) of each observation.
        resamples: number of resamples.
        level: share of the resamples inside the interval, in (0, 1).
        seed: the same arguments give the same intervals.

    Returns:
        (low, high) for each name.

    >>> values = np.array([3.0, 3.0])
    >>> bootstrap_intervals(lambda w: {"mean": float(np.average(values, weights=w))}, np.array([0, 1]))
    {'mean': (3.0, 3.0)}
    """
    draws = [
        measure(weights[groups]) for weights in bootstrap_weights(int(groups.max()) + 1, resamples=resamples, seed=seed)
    ]
    return {name: percentile_interval([draw[name] for draw in draws], level) for name in draws[0]}


def bootstrap_weights(groups: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Draw `groups` of `groups` groups with replacement, `resamples` times.

    Yields:
        (groups,) how often each group was drawn; the weights sum to `groups`.

    >>> [weights.sum() for weights in bootstrap_weights(5, resamples=2, seed=0)]
    [np.float64(5.0), np.float64(5.0)]
    """
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(groups, size=groups), minlength=groups).astype(np.float64)


def resample_statistics(
    statistics: Sequence[Statistic], groups: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Evaluate every statistic on the same draws: (resamples, statistics)."""
    draws = bootstrap_weights(groups, resamples=resamples, seed=seed)
    return np.array([[statistic(weights) for statistic in statistics] for weights in draws])


def percentile_interval(values: Sequence[float] | NDArray[np.floating], level: float = 0.95) -> Interval:
    """Percentile interval (Efron 1979) of (resamples,) values; NaN values are ignored.

    >>> percentile_interval([0.0, 1.0, 2.0, 3.0, 4.0], level=0.5)
    (1.0, 3.0)
    """
    low, high = np.nanpercentile(values, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)


def mean_statistic(values: NDArray[np.floating], owner: NDArray[np.integer], groups: int) -> Statistic:
    """The mean of values, each of which belongs to a group: recall of hits, accuracy of correct choices.

    Args:
        values: (n,) numbers.
        owner: (n,) integers in [0, groups): the group of each value.
        groups: number of groups; those without a value do not count.

    Returns:
        The mean as a function of (groups,) weights; NaN if no group with a value was drawn.

    Image 0 has two captions, of which one is found; image 1 has one, which is found. Then image 1 is drawn twice:

    >>> mean = mean_statistic(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), 2)
    >>> round(mean(np.array([1, 1])), 3), mean(np.array([0, 2]))
    (0.667, 1.0)
    """
    total = np.bincount(owner, weights=values, minlength=groups)
    count = np.bincount(owner, minlength=groups).astype(np.float64)

    def statistic(weights: NDArray[np.float64]) -> float:
        drawn = float(weights @ count)
        return float(weights @ total) / drawn if drawn else float("nan")

    return statistic


def auc_statistic(
    scores: NDArray[np.floating], labels: NDArray[np.bool_] | NDArray[np.integer], owner: NDArray[np.integer]
) -> Statistic:
    """Area under the ROC curve, equal to scikit-learn's `roc_auc_score` with sample weights; ties count one half.

    Scores are sorted once, not for each resample.

    Args:
        scores: (n,) of any range.
        labels: (n,) booleans.
        owner: (n,) integers: the group of each score.

    Returns:
        The AUC as a function of (groups,) weights, in [0, 1]; NaN if only one of the two labels was drawn.

    >>> scores, labels = np.array([0.9, 0.2, 0.3, 0.1]), np.array([True, True, False, False])
    >>> auc = auc_statistic(scores, labels, np.array([0, 1, 0, 1]))
    >>> auc(np.array([1, 1]))
    0.75
    """
    values, position = np.unique(scores, return_inverse=True)  # equal scores share a position
    labels = np.asarray(labels, bool)
    positive, negative = position[labels], position[~labels]
    positive_owner, negative_owner = owner[labels], owner[~labels]

    def statistic(weights: NDArray[np.float64]) -> float:
        matches = np.bincount(positive, weights=weights[positive_owner], minlength=len(values))
        others = np.bincount(negative, weights=weights[negative_owner], minlength=len(values))
        pairs = float(matches.sum() * others.sum())
        return float(matches @ (np.cumsum(others) - others / 2)) / pairs if pairs else float("nan")

    return statistic


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two models by one measure, first minus second, with its confidence interval.

    Attributes:
        value: the difference.
        low: lower end of the interval.
        high: upper end.
        conclusive: whether there are so many groups that any difference could be significant (`least_groups`). With
            fewer, a bootstrap interval is too narrow: of two checks that go the same way, it is a point.
    """

    value: float
    low: float
    high: float
    conclusive: bool = True

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero, and there are enough groups to say so."""
        return self.conclusive and (self.low > 0 or self.high < 0)


def least_groups(level: float = 0.95) -> int:
    """The fewest groups with which an exact sign test can reach a level: the least n with 2 ** (1 - n) <= 1 - level.

    The clearest outcome, the same sign in every group, has the two-sided probability 2 ** (1 - n)
    where there is no difference (Dixon and Mood 1946).

    >>> least_groups(0.95), least_groups(1 - 0.05 / 3)
    (6, 7)
    """
    return 1 + math.ceil(-math.log2(1 - level))


def paired_difference(
    first: float,
    second: float,
    first_draws: NDArray[np.float64],
    second_draws: NDArray[np.float64],
    level: float = 0.95,
    groups: int | None = None,
) -> Difference:
    """The difference of two statistics and its percentile interval, from draws of `resample_statistics`.

    Args:
        first: the statistic of the first model on all data.
        second: that of the second model.
        first_draws: (resamples,) the statistic of the first model on each resample.
        second_draws: (resamples,) that of the second model on the same resamples.
        level: of this interval alone. For `n` simultaneous comparisons pass `1 - 0.05 / n` (Bonferroni), so that all
            hold together with 95%.
        groups: number of groups that have a value; with fewer than `least_groups(level)` no difference is significant.
            By default there are enough.

    >>> draws = np.array([[2.0, 1.0], [3.0, 2.5], [4.0, 3.0]])
    >>> paired_difference(3.0, 2.0, draws[:, 0], draws[:, 1]).significant
    True
    """
    low, high = percentile_interval(first_draws - second_draws, level)
    return Difference(first - second, low, high, groups is None or groups >= least_groups(level))
