"""How good probabilities of a match between picture and text are: as decisions, as a ranking, as probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

BINS = 15  # as Guo et al. 2017


@dataclass(frozen=True)
class MatchScores:
    """Measures of (pairs,) probabilities against labels, all in [0, 1].

    `accuracy`, `precision`, `recall` and `f1` call a pair a match when its probability is at least `threshold`.
    `auc` (area under the ROC curve) and `average_precision` look at the order alone, `brier` and `ece` at the
    probabilities: for these two less is better.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float
    average_precision: float
    brier: float
    ece: float
    threshold: float
    pairs: int
    matches: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def matching_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    threshold: float = 0.5,
    bins: int = BINS,
    weights: np.ndarray | None = None,
) -> MatchScores:
    """Every measure of one set of pairs.

    AUC and average precision are scikit-learn's (`roc_auc_score`: ties count one half; `average_precision_score`: no
    interpolation). Precision is 0 where nothing reaches the threshold.

    Args:
        probabilities: (pairs,) in [0, 1].
        labels: (pairs,) 1 or true for a match, 0 or false for none.
        threshold: at or above it a pair is called a match.
        bins: of the calibration error (`calibration_error`).
        weights: (pairs,) what each pair counts, at least 0; 1 each when not given.

    Raises:
        ValueError: shapes differ, a probability is outside [0, 1], or the labels are not both there.

    Four pairs, of which the second is a match with a low probability: three of four are called rightly, and of the four
    ways to pair a match with another, three are in the right order.

    >>> scores = matching_metrics(np.array([0.9, 0.2, 0.3, 0.1]), np.array([1, 1, 0, 0]))
    >>> scores.accuracy, scores.precision, scores.recall, scores.auc
    (0.75, 1.0, 0.5, 0.75)
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    p, y, w = _checked(probabilities, labels, weights)
    called = p >= threshold
    right = float(w[called & y].sum())
    precision = right / float(w[called].sum()) if w[called].sum() else 0.0
    recall = right / float(w[y].sum())
    return MatchScores(
        accuracy=float(np.average(called == y, weights=w)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if right else 0.0,
        auc=float(roc_auc_score(y, p, sample_weight=w)),
        average_precision=float(average_precision_score(y, p, sample_weight=w)),
        brier=float(np.average((p - y) ** 2, weights=w)),
        ece=calibration_error(p, y, bins=bins, weights=w),
        threshold=threshold,
        pairs=len(p),
        matches=int(y.sum()),
    )


@dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram: (bins,) arrays, without those that hold no pair.

    `confidence` is the mean probability of a bin, `frequency` the share of matches in it, `share` its part of all.
    """

    confidence: np.ndarray
    frequency: np.ndarray
    share: np.ndarray


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = BINS, weights: np.ndarray | None = None
) -> Reliability:
    """Pairs put into `bins` of equal width by their probability: [0, 1/bins), ..., the last with 1 in it.

    Raises:
        ValueError: as `matching_metrics`, or there are no bins.

    >>> found = reliability(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2)
    >>> found.confidence.tolist(), found.frequency.tolist()
    ([0.2, 0.9], [0.5, 1.0])
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    p, y, w = _checked(probabilities, labels, weights)
    at = np.minimum((p * bins).astype(np.int64), bins - 1)
    mass = np.bincount(at, weights=w, minlength=bins)
    there = mass > 0
    confidence = np.bincount(at, weights=w * p, minlength=bins)[there] / mass[there]
    frequency = np.bincount(at, weights=w * y, minlength=bins)[there] / mass[there]
    return Reliability(confidence, frequency, mass[there] / mass.sum())


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = BINS, weights: np.ndarray | None = None
) -> float:
    """Expected calibration error: |share of matches - mean probability| of each bin, weighted by the bin's pairs.

    The binary form of Naeini et al. 2015 (of the probability of a match, in bins of equal width), with the 15 bins of
    Guo et al. 2017, whose form for many classes looks at the confidence of the predicted class instead.

    Raises:
        ValueError: as `reliability`.

    Two bins, two thirds and one third of the pairs, off by 0.3 and 0.1:

    >>> round(calibration_error(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2), 4)
    0.2333
    """
    found = reliability(probabilities, labels, bins=bins, weights=weights)
    return float((found.share * np.abs(found.frequency - found.confidence)).sum())


def threshold_for_precision(probabilities: np.ndarray, labels: np.ndarray, precision: float) -> float | None:
    """The lowest threshold whose precision is at least `precision`, so that the most matches are kept.

    None where no threshold has it. Only probabilities that occur are thresholds.

    Raises:
        ValueError: as `matching_metrics`, or the precision is not in (0, 1].

    >>> threshold_for_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1]), 0.75)
    0.6
    >>> threshold_for_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1]), 0.8)
    0.8
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision is {precision}; it must be in (0, 1]")
    values, matches, called = _by_threshold(probabilities, labels)
    reached = np.flatnonzero(matches >= precision * called)
    return float(values[reached[-1]]) if len(reached) else None


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold with the greatest accuracy; of several the highest.

    Any scores will do, not only probabilities.

    >>> best_threshold(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 0]))
    0.8
    """
    values, matches, called = _by_threshold(probabilities, labels)
    right = matches + (~np.asarray(labels, bool)).sum() - (called - matches)  # matches called + others not called
    return float(values[int(np.argmax(right))])


def _by_threshold(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scores that occur, highest first; for each the matches at or above it, and all pairs at or above it."""
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores are {scores.shape} and labels {labels.shape}; both must be (pairs,), and not empty")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last pair of each value
    return scores[order][last], np.cumsum(labels[order])[last], last + 1


def bootstrap(
    measure: Callable[[np.ndarray], dict[str, float]],
    groups: np.ndarray,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals (Efron 1979) of measures, whole pictures drawn with replacement.

    Pairs of one picture are not independent, so it is pictures that are drawn: `measure` gets the (pairs,) weights of a
    resample, the number of times that each pair's picture was drawn.

    Args:
        measure: from weights to numbers by name, as `lambda w: matching_metrics(p, y, weights=w).as_dict()`.
        groups: (pairs,) integers from 0, the picture that each pair belongs to.
        level: share of the resamples inside the interval.

    Returns:
        (low, high) for each name.
    """
    count = int(groups.max()) + 1
    random = np.random.default_rng(seed)
    draws = [
        measure(np.bincount(random.integers(count, size=count), minlength=count)[groups]) for _ in range(resamples)
    ]
    ends = (50 * (1 - level), 50 * (1 + level))
    return {name: _interval([draw[name] for draw in draws], ends) for name in draws[0]}


def _interval(values: list[float], ends: tuple[float, float]) -> tuple[float, float]:
    low, high = np.percentile(values, ends)
    return float(low), float(high)


def _checked(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    if not p.shape == y.shape == w.shape or p.ndim != 1:
        raise ValueError(f"probabilities are {p.shape}, labels {y.shape}, weights {w.shape}; all must be (pairs,)")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is outside [0, 1] or NaN; calibrate scores before they are measured")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y[w > 0])) < 2:
        raise ValueError("labels must be 0 and 1, and both must be there")
    return p, y.astype(bool), w
