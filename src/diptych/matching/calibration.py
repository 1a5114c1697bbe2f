"""Calibration: from the evidence for a pair to the probability that it matches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.errors import ConfigError, DataError

EVIDENCE = ("head", "cosine", "image_hub", "text_hub")
"""Columns of the evidence: the head's logit, the cosine, and the hubness of image and text."""

_BOUNDS = {"head": (0, None), "cosine": (0, None), "image_hub": (None, 0), "text_hub": (None, 0)}


@dataclass(frozen=True)
class Calibration:
    """A weighted sum of the evidence, a monotone piecewise linear curve, and the sigmoid.

    Sum and sigmoid are Platt scaling (Platt 1999). The curve adds what isotonic regression offers (Zadrozny and Elkan
    2002).

    Attributes:
        weights: Weight of each column of `EVIDENCE` that is used.
        bias: Added to the weighted sum.
        knots: Points (x, y) of the curve; empty for the identity.
        prior: Share of matches among the pairs that it was fitted on. Another share is a shift of the logit (`prior` of
            `logits`).
        negatives: Shares of the kinds of negatives that it was fitted on. Probabilities are calibrated for such pairs;
            harder or easier negatives cannot be corrected.
    """

    weights: dict[str, float]
    bias: float
    knots: tuple[tuple[float, float], ...] = ()
    prior: float = 0.5
    negatives: dict[str, float] = field(default_factory=dict)

    def logits(self, evidence: np.ndarray, prior: float | None = None) -> NDArray[np.float64]:
        """Calibrated logits, (pairs,), of (pairs, 4) evidence with the columns of `EVIDENCE`.

        Args:
            evidence: (..., 4).
            prior: Expected share of matches in (0, 1); by default the calibration's own.

        Raises:
            ConfigError: The prior is outside (0, 1).
        """
        if prior is not None and not 0 < prior < 1:
            raise ConfigError(f"prior is {prior}; it is the share of pairs that match, above 0 and below 1")
        shift = 0.0 if prior is None else logit(prior) - logit(self.prior)
        sums = evidence @ np.array([self.weights.get(name, 0.0) for name in EVIDENCE]) + self.bias  # (pairs,)
        return _curve(sums, np.array(self.knots)) + shift

    def __call__(self, evidence: np.ndarray, prior: float | None = None) -> NDArray[np.float64]:
        """Probabilities of a match, (pairs,) in [0, 1]; arguments and errors are those of `logits`."""
        return sigmoid(self.logits(evidence, prior))


def fit_calibration(
    evidence: np.ndarray,
    labels: np.ndarray,
    *,
    use: Sequence[str] = EVIDENCE,
    candidates: tuple[np.ndarray, np.ndarray] | None = None,
    prior: float = 0.5,
    negatives: dict[str, float] | None = None,
) -> Calibration:
    """Fit a calibration on held-out pairs.

    First, the relative weights are those that rank each text's own image first among its candidates (conditional
    logit). Second, scale, bias and the weight of the text's hubness are fitted by logistic regression, matches weighing
    `prior` in total; without `candidates`, this step fits all weights. Third, the curve is fitted to the observed share
    of matches by isotonic regression. Weights of the head and the cosine are never negative, those of hubness never
    positive.

    Args:
        evidence: (pairs, 4) with the columns of `EVIDENCE`.
        labels: (pairs,) 1 or true for a match.
        use: Columns of `EVIDENCE` that are used.
        candidates: Evidence of each text's candidates (texts, candidates, 4), and the position of the text's own image
            among them (texts,), -1 where it is not one of them.
        prior: Share of matches to calibrate for, in (0, 1).
        negatives: Stored as `Calibration.negatives`.

    Raises:
        DataError: All labels are equal.
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        raise DataError("calibration needs pairs that match and pairs that do not; give it both")
    ranking = [EVIDENCE.index(name) for name in use if name != "text_hub"]
    weights = np.zeros(len(EVIDENCE))
    rest = [EVIDENCE.index(name) for name in use]
    if candidates is not None and len(ranking) > 1 and (candidates[1] >= 0).any():
        inside = candidates[1] >= 0
        weights[ranking] = _rank_weights(candidates[0][inside][..., ranking], candidates[1][inside], _bounds(ranking))
        rest = [column for column in rest if column not in ranking]
    ranked = bool(weights.any())
    inputs = np.concatenate([evidence[:, rest], (evidence @ weights)[:, None][:, : int(ranked)]], axis=1)
    bounds = [*_bounds(rest), *([(0, None)] if ranked else [])]
    balance = np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum())
    slopes, bias = _logistic(inputs.astype(np.float64), labels, balance, bounds)
    if ranked:
        weights *= slopes[-1]
    weights[rest] = slopes[: len(rest)]
    named = {EVIDENCE[column]: float(weights[column]) for column in np.flatnonzero(weights)}
    knots = _knots(evidence @ weights + bias, labels, balance)
    return Calibration(named, bias, knots, prior, negatives or {})


def sigmoid(logits: np.ndarray) -> NDArray[np.float64]:
    """1 / (1 + exp(-logits)), without overflow."""
    return 0.5 * (1 + np.tanh(logits / 2))


def logit(probability: float) -> float:
    """The inverse of `sigmoid`, for a probability inside (0, 1)."""
    return math.log(probability / (1 - probability))


_BINS = 16
_MIN_SLOPE = 0.02  # keeps the curve strictly increasing


def _curve(sums: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The curve at `sums`: slope 1 below the first knot (Platt scaling), nearly flat above the last."""
    if not len(knots):
        return sums
    x, y = knots.T
    beyond = np.minimum(sums - x[0], 0) + _MIN_SLOPE * np.maximum(sums - x[-1], 0)
    return np.interp(sums, x, y) + beyond


def _knots(sums: np.ndarray, labels: np.ndarray, balance: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Logits of the share of matches in bins of equal size, made monotone by isotonic regression."""
    from sklearn.isotonic import IsotonicRegression

    bins = np.array_split(np.argsort(sums, kind="stable"), max(1, min(_BINS, len(sums) // 20)))
    x = np.array([np.average(sums[part], weights=balance[part]) for part in bins])
    if len(bins) < 2 or not (np.diff(x) > 1e-6).all():
        return ()
    mass = np.array([balance[part].sum() for part in bins])
    extra = balance.mean()  # one more pair, half of it a match, keeps shares off 0 and 1
    share = np.array([(balance[part] * labels[part]).sum() + extra / 2 for part in bins]) / (mass + extra)
    rising = IsotonicRegression().fit_transform(np.arange(len(bins)), share, sample_weight=mass)
    y = np.log(rising / (1 - rising))
    steps = np.maximum(np.diff(y), _MIN_SLOPE * np.diff(x))
    y = np.concatenate([y[:1], y[0] + np.cumsum(steps)])
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


Bounds = list[tuple[float | None, float | None]]


def _bounds(columns: Sequence[int]) -> Bounds:
    return [_BOUNDS[EVIDENCE[column]] for column in columns]


def _rank_weights(evidence: np.ndarray, own: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Weights that maximise the likelihood of each text's own image among its candidates: (columns,)."""
    spread = evidence.std(axis=(0, 1)) + 1e-9
    x = (evidence - evidence.mean(axis=1, keepdims=True)) / spread  # (texts, candidates, columns)
    texts = np.arange(len(x))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ w  # (texts, candidates)
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores)
        p /= p.sum(axis=1, keepdims=True)
        gradient = (p[..., None] * x).sum(axis=1) - x[texts, own]  # (texts, columns)
        return -float(np.log(p[texts, own]).mean()), gradient.mean(axis=0)

    return _minimum(loss, np.zeros(x.shape[-1]), bounds) / spread


def _logistic(inputs: np.ndarray, labels: np.ndarray, balance: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, float]:
    """Logistic regression with bounds on the slopes: (columns,) slopes and the bias."""
    center, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    x = np.concatenate([(inputs - center) / spread, np.ones((len(inputs), 1))], axis=1)
    signs = np.where(labels, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (x @ w)
        gradient = -(balance * signs * sigmoid(-margins)) @ x
        return float(balance @ np.logaddexp(0, -margins)), gradient

    weights = _minimum(loss, np.zeros(x.shape[1]), [*bounds, (None, None)])
    slopes = weights[:-1] / spread
    return slopes, float(weights[-1] - slopes @ center)


def _minimum(loss: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, bounds: Bounds) -> np.ndarray:
    from scipy.optimize import minimize

    return minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
