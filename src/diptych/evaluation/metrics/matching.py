"""Metrics of match probabilities: accuracy, precision and recall, AUC, Brier score, calibration error."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as Guo et al. 2017


Floats = NDArray[np.floating]
"""(pairs,) numbers."""

Labels = NDArray[np.bool_] | NDArray[np.integer]
"""(pairs,) 1 or true for a match, 0 or false otherwise."""


@dataclass(frozen=True)
class MatchScores:
    """Metrics of predicted match probabilities, all in [0, 1].

    `accuracy`, `precision`, `recall` and `f1` predict a match where the probability is at least `threshold`. `auc`
    (area under the ROC curve) and `average_precision` depend on the order alone. `brier` (Brier score) and `ece`
    (expected calibration error) measure the probabilities themselves: lower is better.
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

    def to_dict(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


def matching_metrics(
    probabilities: Floats,
    labels: Labels,
    *,
    threshold: float = 0.5,
    bins: int = BINS,
    weights: Floats | None = None,
) -> MatchScores:
    """Compute all metrics of one set of pairs.

    AUC and average precision are scikit-learn's (`roc_auc_score`: ties count one half; `average_precision_score`: no
    interpolation). Precision is 0 if no probability reaches the threshold.

    Args:
        probabilities: (pairs,) in [0, 1].
        labels: (pairs,) 1 or true for a match, 0 or false otherwise.
        threshold: lowest probability that is predicted as a match.
        bins: number of bins of the calibration error (`calibration_error`).
        weights: (pairs,) sample weights, at least 0; 1 by default.

    Raises:
        ValueError: shapes differ, a probability is outside [0, 1], or only one of the two labels occurs.

    Four pairs, of which the second is a match with a low probability: three of four predictions are right, and of the
    four combinations of a match and a non-match, three are in the right order.

    >>> scores = matching_metrics(np.array([0.9, 0.2, 0.3, 0.1]), np.array([1, 1, 0, 0]))
    >>> scores.accuracy, scores.precision, scores.recall, scores.auc
    (0.75, 1.0, 0.5, 0.75)
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    p, y, w = _checked(probabilities, labels, weights)
    predicted = p >= threshold
    true_positives = float(w[predicted & y].sum())
    positives = float(w[predicted].sum())
    precision = true_positives / positives if positives else 0.0
    recall = true_positives / float(w[y].sum())
    return MatchScores(
        accuracy=float(np.average(predicted == y, weights=w)),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if true_positives else 0.0,
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
    """The bins of a reliability diagram; empty bins are left out.

    Attributes:
        confidence: (bins,) mean probability of each bin.
        frequency: (bins,) fraction of matches in each bin.
        share: (bins,) fraction of all pairs that fall into each bin.
    """

    confidence: NDArray[np.float64]
    frequency: NDArray[np.float64]
    share: NDArray[np.float64]


def reliability(
    probabilities: Floats, labels: Labels, *, bins: int = BINS, weights: Floats | None = None
) -> Reliability:
    """Bin pairs by probability into `bins` of equal width: [0, 1/bins), ..., the last including 1.

    Args:
        probabilities: as for `matching_metrics`.
        labels: as for `matching_metrics`.
        bins: number of bins, at least 1.
        weights: as for `matching_metrics`.

    Raises:
        ValueError: as `matching_metrics`, or `bins` is below 1.

    The probabilities 0.1 and 0.3 fall into the first bin, 0.9 into the second:

    >>> diagram = reliability(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2)
    >>> diagram.confidence.tolist(), diagram.frequency.tolist()
    ([0.2, 0.9], [0.5, 1.0])
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    p, y, w = _checked(probabilities, labels, weights)
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    mass = np.bincount(bin_of, weights=w, minlength=bins)
    filled = mass > 0
    confidence = np.bincount(bin_of, weights=w * p, minlength=bins)[filled] / mass[filled]
    frequency = np.bincount(bin_of, weights=w * y, minlength=bins)[filled] / mass[filled]
    return Reliability(confidence, frequency, mass[filled] / mass.sum())


def calibration_error(
    probabilities: Floats, labels: Labels, *, bins: int = BINS, weights: Floats | None = None
) -> float:
    """Expected calibration error: |fraction of matches - mean probability| of each bin, averaged over pairs: in [0, 1].

    The binary form of Naeini et al. 2015 (probability of a match, bins of equal width) with the 15 bins of Guo et al.
    2017, whose multi-class form uses the confidence of the predicted class instead.

    Arguments and errors are those of `reliability`.

    Two bins, with two thirds and one third of the pairs, and errors of 0.3 and 0.1:

    >>> round(calibration_error(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1]), bins=2), 4)
    0.2333
    """
    diagram = reliability(probabilities, labels, bins=bins, weights=weights)
    return float((diagram.share * np.abs(diagram.frequency - diagram.confidence)).sum())


def threshold_for_precision(probabilities: Floats, labels: Labels, precision: float) -> float | None:
    """The lowest threshold whose precision is at least `precision`, which has the highest recall of those.

    Args:
        probabilities: (pairs,) of any range.
        labels: (pairs,) 1 or true for a match, 0 or false otherwise.
        precision: in (0, 1].

    Returns:
        One of the probabilities, or None if no threshold reaches the precision.

    Raises:
        ValueError: shapes differ, there is no pair, or `precision` is not in (0, 1].

    >>> threshold_for_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1]), 0.75)
    0.6
    >>> threshold_for_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1]), 0.8)
    0.8
    """
    if not 0 < precision <= 1:
        raise ValueError(f"precision is {precision}; it must be in (0, 1]")
    values, matches, pairs = _by_threshold(probabilities, labels)
    reached = np.flatnonzero(matches >= precision * pairs)
    return float(values[reached[-1]]) if len(reached) else None


def best_threshold(probabilities: Floats, labels: Labels) -> float:
    """The threshold with the highest accuracy; the highest of several.

    Args:
        probabilities: (pairs,) probabilities, or scores of any range.
        labels: (pairs,) 1 or true for a match, 0 or false otherwise.

    Raises:
        ValueError: shapes differ, or there is no pair.

    >>> best_threshold(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 0]))
    0.8
    """
    values, matches, pairs = _by_threshold(probabilities, labels)
    non_matches = (~np.asarray(labels, bool)).sum()
    right = matches + non_matches - (pairs - matches)  # true positives + true negatives
    return float(values[int(np.argmax(right))])


def _by_threshold(scores: Floats, labels: Labels) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The distinct scores, highest first; for each the number of matches and of pairs at or above it."""
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    if scores.shape != labels.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores are {scores.shape} and labels {labels.shape}; both must be (pairs,), and not empty")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last pair of each value
    return scores[order][last], np.cumsum(labels[order])[last], last + 1


def _checked(
    probabilities: Floats, labels: Labels, weights: Floats | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Validate the arguments of `matching_metrics`."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    if not p.shape == y.shape == w.shape or p.ndim != 1:
        raise ValueError(f"probabilities are {p.shape}, labels {y.shape}, weights {w.shape}; all must be (pairs,)")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is outside [0, 1] or NaN; calibrate scores first")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y[w > 0])) < 2:
        raise ValueError("labels must be 0 and 1, and both must occur")
    return p, y.astype(bool), w
