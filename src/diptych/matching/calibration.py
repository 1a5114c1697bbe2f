"""Calibration: from what is known of a pair to a probability that means what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from diptych.errors import ConfigError, DataError

EVIDENCE = ("head", "cosine", "image_hub", "text_hub")
"""What is known of a pair: the head's logit, the cosine, and how near picture and text each are to everything."""

_BOUNDS = {"head": (0, None), "cosine": (0, None), "image_hub": (None, 0), "text_hub": (None, 0)}


@dataclass(frozen=True)
class Calibration:
    """From the evidence for a pair to a probability: a weighted sum, then a curve that never falls, then the sigmoid.

    Sum and sigmoid are Platt's (1999). The curve, lines between the `knots` (x, y), is what isotonic regression
    (Zadrozny and Elkan 2002) adds: however sure a sum is, of pairs that look alike only so many match.

    `prior` is the share of matches among the pairs that it was fitted on, and `negatives` says what the other pairs
    were: the probability is right for pairs like those. Another share of matches is a shift of the logit (`prior` of
    the call); negatives that are harder or easier are not.
    """

    weights: dict[str, float]  # of those in EVIDENCE that count
    bias: float
    knots: tuple[tuple[float, float], ...] = ()
    prior: float = 0.5
    negatives: dict[str, float] = field(default_factory=dict)

    def logits(self, evidence: np.ndarray, prior: float | None = None) -> np.ndarray:
        """(pairs,) logits of (pairs, 4) evidence, its columns those of `EVIDENCE`; candidates are ranked by them.

        Raises:
            ConfigError: the prior is not inside (0, 1).
        """
        if prior is not None and not 0 < prior < 1:
            raise ConfigError(f"prior is {prior}; it is the share of pairs that match, above 0 and below 1")
        shift = 0.0 if prior is None else logit(prior) - logit(self.prior)
        sums = evidence @ np.array([self.weights.get(name, 0.0) for name in EVIDENCE]) + self.bias  # (pairs,)
        return _bent(sums, np.array(self.knots)) + shift

    def __call__(self, evidence: np.ndarray, prior: float | None = None) -> np.ndarray:
        """(pairs,) probabilities of a match, of `prior` if given else of the prior that it was fitted on."""
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
    """Fit a calibration on held-out pairs, in three steps, each of a handful of numbers.

    The weights among `use` are those that rank best: of each text's candidates its own picture is to come first
    (conditional logit). Then scale, bias and the weight of the text are those that make probabilities right, matches
    weighing `prior` of all together. Without `candidates` the second step fits all. Last the curve is bent to the share
    of matches that is found. No weight turns the order of what
    it weighs round: heads and cosines speak for a match or not at all, hubness against it.

    Args:
        evidence: (pairs, 4), its columns those of `EVIDENCE`.
        labels: (pairs,) 1 or true for a match.
        use: the columns that count.
        candidates: evidence of each text's candidates, (texts, candidates, 4), and (texts,) which of them is the text's
            own picture, -1 where none is.

    Raises:
        DataError: the labels are not both there.
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
        rest = [at for at in rest if at not in ranking]
    ranked = bool(weights.any())
    inputs = np.concatenate([evidence[:, rest], (evidence @ weights)[:, None][:, : int(ranked)]], axis=1)
    bounds = [*_bounds(rest), *([(0, None)] if ranked else [])]
    balance = np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum())
    slopes, bias = _logistic(inputs.astype(np.float64), labels, balance, bounds)
    if ranked:
        weights *= slopes[-1]
    weights[rest] = slopes[: len(rest)]
    told = {EVIDENCE[at]: float(weights[at]) for at in np.flatnonzero(weights)}
    knots = _knots(evidence @ weights + bias, labels, balance)
    return Calibration(told, bias, knots, prior, negatives or {})


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), without overflow."""
    return 0.5 * (1 + np.tanh(logits / 2))


def logit(probability: float) -> float:
    """The inverse of `sigmoid`, for a probability inside (0, 1)."""
    return math.log(probability / (1 - probability))


_BINS = 16
_LEAST_SLOPE = 0.02  # so that no two sums become one


def _bent(sums: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Sums on the curve; below its first knot the slope is 1, as Platt has it, and above the last it is nearly flat."""
    if not len(knots):
        return sums
    x, y = knots.T
    beyond = np.minimum(sums - x[0], 0) + _LEAST_SLOPE * np.maximum(sums - x[-1], 0)
    return np.interp(sums, x, y) + beyond


def _knots(sums: np.ndarray, labels: np.ndarray, balance: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The share of matches, as a logit, in bins of equally many pairs, made to rise by isotonic regression."""
    from sklearn.isotonic import IsotonicRegression

    bins = np.array_split(np.argsort(sums, kind="stable"), max(1, min(_BINS, len(sums) // 20)))
    x = np.array([np.average(sums[part], weights=balance[part]) for part in bins])
    if len(bins) < 2 or not (np.diff(x) > 1e-6).all():
        return ()
    mass = np.array([balance[part].sum() for part in bins])
    one = balance.mean()  # one pair more, half a match, so that no share is 0 or 1
    share = np.array([(balance[part] * labels[part]).sum() + one / 2 for part in bins]) / (mass + one)
    rising = IsotonicRegression().fit_transform(np.arange(len(bins)), share, sample_weight=mass)
    y = np.log(rising / (1 - rising))
    steps = np.maximum(np.diff(y), _LEAST_SLOPE * np.diff(x))
    y = np.concatenate([y[:1], y[0] + np.cumsum(steps)])
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


Bounds = list[tuple[float | None, float | None]]


def _bounds(columns: Sequence[int]) -> Bounds:
    return [_BOUNDS[EVIDENCE[at]] for at in columns]


def _rank_weights(evidence: np.ndarray, own: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Weights by which each text's own picture is likeliest among its candidates: (columns,)."""
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

    found = _minimum(loss, np.zeros(x.shape[1]), [*bounds, (None, None)])
    slopes = found[:-1] / spread
    return slopes, float(found[-1] - slopes @ center)


def _minimum(loss: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, bounds: Bounds) -> np.ndarray:
    from scipy.optimize import minimize

    return minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
