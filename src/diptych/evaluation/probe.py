"""Classifiers on stored vectors for those who have some labels: a linear probe, and a few-shot adapter of the names.

All three kinds here, zero-shot among them, have one form: fitted on labelled vectors, they give each picture a
probability for every class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diptych.errors import DataError, require

STRENGTHS = tuple(10.0**power for power in range(-1, 5))  # of the probe, `C`; CLIP's sweep is wider and as coarse
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (1.0, 2.0, 5.5, 10.0, 20.0)
_BLOCK = 1024  # pictures compared with all examples at once


class Classifier(Protocol):
    """From (pictures, dim) unit vectors to (pictures, classes) probabilities; a row sums to 1."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ZeroShot:
    """The class names alone: a softmax over cosines times `scale`, the model's own logit scale (Radford et al. 2021).

    `names` are the (classes, dim) unit vectors of the class names.
    """

    names: np.ndarray
    scale: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return _softmax(self.scale * vectors @ self.names.T)


@dataclass(frozen=True)
class Adapter:
    """Tip-Adapter without training (Zhang et al. 2022): a picture is also drawn to the classes of examples near it.

    Logits are `scale * x @ names.T + alpha * exp(-beta * (1 - x @ examples.T)) @ shares`. A column of `shares` sums to
    the mean number of examples a class, so that a class does not win by having more of them; where all have as many
    these are the paper's.
    """

    zero_shot: ZeroShot
    examples: np.ndarray
    shares: np.ndarray
    alpha: float
    beta: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        parts = [self._some(vectors[at : at + _BLOCK]) for at in range(0, len(vectors), _BLOCK)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.zero_shot.names)))

    def _some(self, vectors: np.ndarray) -> np.ndarray:
        near = np.exp(-self.beta * (1 - vectors @ self.examples.T))  # (pictures, examples)
        return _softmax(self.zero_shot.scale * vectors @ self.zero_shot.names.T + self.alpha * near @ self.shares)


@dataclass(frozen=True)
class Probe:
    """A linear probe: multinomial logistic regression on unit vectors (scikit-learn), `strength` its `C`.

    A class without an example gets probability 0.
    """

    regression: Any
    classes: int
    strength: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        found = np.zeros((len(vectors), self.classes))
        found[:, self.regression.classes_] = self.regression.predict_proba(np.asarray(vectors, np.float64))
        return found


def fit_adapter(vectors: np.ndarray, labels: np.ndarray, names: np.ndarray, scale: float) -> Adapter:
    """An adapter of the class names by examples, alpha and beta the best where each example is left out in turn.

    Args:
        vectors: (examples, dim) unit vectors.
        labels: (examples,) integers in [0, classes).
        names: (classes, dim) unit vectors of the class names.
        scale: the model's logit scale.

    Raises:
        DataError: there is no example.
    """
    _check(vectors, labels)
    counts = np.bincount(labels, minlength=len(names))
    shares = np.zeros((len(labels), len(names)))
    shares[np.arange(len(labels)), labels] = counts[counts > 0].mean() / counts[labels]
    by_name = scale * vectors @ names.T  # (examples, classes)
    scores = []
    for beta in BETAS:
        votes = np.concatenate([_votes(vectors, shares, beta, at) for at in range(0, len(vectors), _BLOCK)])
        for alpha in ALPHAS:
            chances = _softmax(by_name + alpha * votes)[np.arange(len(labels)), labels]
            # Accuracy first; of equals the likelihood, which a handful of examples tells apart better.
            right = float((np.argmax(by_name + alpha * votes, axis=1) == labels).mean())
            scores.append((right, float(np.log(np.maximum(chances, 1e-12)).mean()), alpha, beta))
    *_, alpha, beta = max(scores)
    return Adapter(ZeroShot(names, scale), np.asarray(vectors), shares, alpha=alpha, beta=beta)


def _votes(vectors: np.ndarray, shares: np.ndarray, beta: float, start: int) -> np.ndarray:
    """What the other examples say of those from `start` on, at most a block: (examples, classes)."""
    some = vectors[start : start + _BLOCK]
    near = np.exp(-beta * (1 - some @ vectors.T))
    near[np.arange(len(some)), start + np.arange(len(some))] = 0  # an example does not vote for itself
    return near @ shares


def fit_probe(vectors: np.ndarray, labels: np.ndarray, classes: int, *, seed: int = 0) -> Probe:
    """A linear probe, `C` the best of `STRENGTHS` by cross-validation on the examples (by likelihood).

    With fewer than two examples of a class it cannot be chosen so, and is 10.

    Raises:
        DataError: there are no examples of two classes.
    """
    _check(vectors, labels)
    if len(np.unique(labels)) < 2:
        raise DataError("all examples are of one class; a linear probe needs examples of at least two")
    linear = require("sklearn.linear_model", "train")
    vectors = np.asarray(vectors, np.float64)
    strength = _best_strength(vectors, labels, seed)
    regression = linear.LogisticRegression(C=strength, max_iter=1000).fit(vectors, labels)
    return Probe(regression, classes, strength)


def _best_strength(vectors: np.ndarray, labels: np.ndarray, seed: int) -> float:
    linear, selection = require("sklearn.linear_model", "train"), require("sklearn.model_selection", "train")
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2:
        return 10.0
    folds = selection.StratifiedKFold(min(3, counts.min()), shuffle=True, random_state=seed)
    scores = {
        strength: selection.cross_val_score(
            linear.LogisticRegression(C=strength, max_iter=1000), vectors, labels, cv=folds, scoring="neg_log_loss"
        ).mean()
        for strength in STRENGTHS
    }
    return max(scores, key=lambda strength: scores[strength])


def cross_validated(
    fit: Callable[[np.ndarray, np.ndarray], Classifier],
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Probabilities for every picture by a classifier that was fitted without it: (pictures, classes).

    Pictures are put into `folds` parts in which classes have equal shares; fewer where a class has fewer examples.

    Raises:
        DataError: a class has a single example.
    """
    selection = require("sklearn.model_selection", "train")
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2:
        raise DataError("a class has a single picture, so none is left to judge by; give each class two or more")
    parts = selection.StratifiedKFold(min(folds, counts.min()), shuffle=True, random_state=seed)
    rows: list[np.ndarray] = [np.empty(0)] * len(labels)
    for learn, judge in parts.split(vectors, labels):
        for row, found in zip(judge, fit(vectors[learn], labels[learn])(vectors[judge]), strict=True):
            rows[row] = found
    return np.array(rows)


def class_ranks(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rank of each picture's own class in (pictures, classes) probabilities, from 1; a tie counts against it.

    >>> class_ranks(np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 1])).tolist()
    [1, 2]
    """
    own = chances[np.arange(len(labels)), labels][:, None]
    return (chances >= own).sum(axis=1)


def few_shots(labels: np.ndarray, shots: int, *, seed: int = 0) -> np.ndarray:
    """Rows of `shots` examples of each class, drawn by chance, ascending; all of a class that has fewer."""
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def _check(vectors: np.ndarray, labels: np.ndarray) -> None:
    if not len(labels) or len(vectors) != len(labels):
        raise DataError(f"{len(vectors)} vectors and {len(labels)} labels; give one label each, and at least one")


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
