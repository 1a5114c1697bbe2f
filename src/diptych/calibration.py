"""Calibration: from what a matcher's head says to a probability that means what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from diptych.errors import ConfigError, DataError


@dataclass(frozen=True)
class Calibration:
    """From a head's logit and the cosine to a probability, by logistic regression (Platt 1999) on held-out pairs.

    `prior` is the share of matches among the pairs that it was fitted on, and `negatives` says what the other pairs
    were: the probability is right for pairs like those. Another share of matches is a shift of the logit (`prior` of
    the call); negatives that are harder or easier are not.
    """

    head: float
    cosine: float
    bias: float
    prior: float = 0.5
    negatives: dict[str, float] = field(default_factory=dict)

    def logits(self, head_logits: np.ndarray, cosines: np.ndarray, prior: float | None = None) -> np.ndarray:
        """(pairs,) calibrated logits, in the order in which candidates are ranked.

        Raises:
            ConfigError: the prior is not inside (0, 1).
        """
        if prior is not None and not 0 < prior < 1:
            raise ConfigError(f"prior is {prior}; it is the share of pairs that match, above 0 and below 1")
        shift = 0.0 if prior is None else logit(prior) - logit(self.prior)
        return self.head * head_logits.astype(np.float64) + self.cosine * cosines + self.bias + shift

    def __call__(self, head_logits: np.ndarray, cosines: np.ndarray, prior: float | None = None) -> np.ndarray:
        """(pairs,) probabilities of a match, of `prior` if given else of the prior that it was fitted on."""
        return sigmoid(self.logits(head_logits, cosines, prior))

    @classmethod
    def fit(
        cls,
        head_logits: np.ndarray,
        cosines: np.ndarray,
        labels: np.ndarray,
        *,
        prior: float = 0.5,
        negatives: dict[str, float] | None = None,
        use_cosine: bool = True,
    ) -> Calibration:
        """Fit to (pairs,) logits, cosines and 0/1 labels, the matches weighing `prior` of all together.

        With `use_cosine` false the head stands alone.

        Raises:
            DataError: the labels are not both there.
        """
        from sklearn.linear_model import LogisticRegression

        labels = np.asarray(labels, bool)
        if labels.all() or not labels.any():
            raise DataError("calibration needs pairs that match and pairs that do not; give it both")
        weights = np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum()) * len(labels)
        inputs = np.stack([head_logits, cosines], axis=1).astype(np.float64)[:, : 1 + use_cosine]  # (pairs, 1 or 2)
        center, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
        inputs = (inputs - center) / spread
        model = LogisticRegression(C=1e4).fit(inputs, labels, sample_weight=weights)
        if (against := model.coef_[0] < 0).any():  # what learnt nothing counts nothing, and never turns the order round
            model.fit(np.where(against, 0.0, inputs), labels, sample_weight=weights)
        slopes = np.maximum(model.coef_[0], 0) / spread
        bias = float(model.intercept_[0] - (slopes * center).sum())
        return cls(float(slopes[0]), float(slopes[1]) if use_cosine else 0.0, bias, prior, negatives or {})


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), without overflow."""
    return 0.5 * (1 + np.tanh(logits / 2))


def logit(probability: float) -> float:
    """The inverse of `sigmoid`, for a probability inside (0, 1)."""
    return math.log(probability / (1 - probability))
