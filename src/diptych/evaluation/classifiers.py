"""Classifiers of image embeddings in scikit-learn's protocol: zero-shot, Tip-Adapter, and a linear probe.

`X` is an (images, dim) array of unit vectors. `predict_proba` returns (images, classes), with the columns in the order
of `classes_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from diptych.errors import DataError

STRENGTHS = tuple(10.0**power for power in range(-1, 5))
"""Inverse regularization strengths `C` that `LinearProbe` chooses from, a subset of the range of CLIP's sweep."""
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (1.0, 2.0, 5.5, 10.0, 20.0)
_BLOCK = 1024  # images compared with all examples at once


Embeddings = NDArray[np.floating]
"""(images, dim) unit vectors."""

ClassLabels = NDArray[np.generic]
"""Labels of classes: an array of strings, integers, or anything else that can be sorted."""


class EmbeddingClassifier(ClassifierMixin, BaseEstimator):
    """Base class: `predict` from the `predict_proba` of a subclass."""

    classes_: ClassLabels

    def predict_proba(self, X: Embeddings) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Class probabilities: (images, classes); each row sums to 1."""
        raise NotImplementedError

    def predict(self, X: Embeddings) -> ClassLabels:  # noqa: N803
        """The most probable class of each image: (images,), values of `classes_`."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]


class ZeroShotClassifier(EmbeddingClassifier):
    """Softmax over the scaled cosines of image and class embeddings (Radford et al. 2021). It learns nothing.

    Args:
        class_embeddings: (classes, dim) unit vectors of the class names.
        classes: label of each class; 0, 1, ... by default.
        logit_scale: factor of the cosines, that of the model.

    Cosines of 1 and 0, scaled by log 3, give odds of 3 to 1:

    >>> classifier = ZeroShotClassifier(np.eye(2), ["cat", "dog"], logit_scale=np.log(3)).fit()
    >>> classifier.predict_proba(np.array([[1.0, 0.0]])).round(4).tolist(), classifier.predict(np.eye(2)).tolist()
    ([[0.75, 0.25]], ['cat', 'dog'])
    """

    def __init__(
        self, class_embeddings: NDArray[np.floating], classes: ArrayLike | None = None, *, logit_scale: float = 100.0
    ) -> None:
        self.class_embeddings, self.classes, self.logit_scale = class_embeddings, classes, logit_scale

    def fit(self, X: Embeddings | None = None, y: ArrayLike | None = None) -> Self:  # noqa: ARG002, N803 - the protocol
        """Set `classes_`; the arguments are ignored."""
        self.classes_ = _labels(self.classes, len(self.class_embeddings))
        return self

    def predict_proba(self, X: Embeddings) -> NDArray[np.float64]:  # noqa: N803
        """Class probabilities: (images, classes)."""
        check_is_fitted(self)
        return softmax(self.logit_scale * X @ self.class_embeddings.T, axis=1)


class TipAdapter(EmbeddingClassifier):
    """Training-free Tip-Adapter (Zhang et al. 2022): zero-shot logits plus votes of similar labelled images.

    Logits are `logit_scale * x @ class_embeddings.T + alpha * exp(-beta * (1 - x @ examples.T)) @ votes`. Each column
    of `votes` sums to the mean number of examples per class, so that a class does not win by having more of them; with
    equal numbers these are the paper's one-hot labels. `alpha` and `beta` are chosen by leave-one-out accuracy on the
    examples, and by likelihood among equals.

    Args:
        class_embeddings: (classes, dim) unit vectors of the class names.
        classes: label of each class; 0, 1, ... by default.
        logit_scale: factor of the cosines, that of the model.
        alphas: candidates for `alpha_`.
        betas: candidates for `beta_`.

    Attributes:
        alpha_: chosen weight of the votes.
        beta_: chosen sharpness of the similarity.
        examples_: (examples, dim) the embeddings it was fitted on.
        votes_: (examples, classes) weight of each example's vote for its class.

    The class embeddings are swapped; an example of each class corrects them:

    >>> adapter = TipAdapter(np.eye(2)[::-1], logit_scale=1.0).fit(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])
    >>> adapter.predict(np.eye(2)).tolist()
    [0, 1]
    """

    def __init__(
        self,
        class_embeddings: NDArray[np.floating],
        classes: ArrayLike | None = None,
        *,
        logit_scale: float = 100.0,
        alphas: Sequence[float] = ALPHAS,
        betas: Sequence[float] = BETAS,
    ) -> None:
        self.class_embeddings, self.classes, self.logit_scale = class_embeddings, classes, logit_scale
        self.alphas, self.betas = alphas, betas

    def fit(self, X: Embeddings, y: ArrayLike) -> Self:  # noqa: N803
        """Store the examples and choose `alpha_` and `beta_`.

        Args:
            X: (examples, dim) unit vectors.
            y: (examples,) values of `classes`.

        Raises:
            DataError: there is no example, the lengths differ, or a label is not one of `classes`.
        """
        self.classes_ = _labels(self.classes, len(self.class_embeddings))
        rows = _class_rows(X, y, self.classes_)
        counts = np.bincount(rows, minlength=len(self.classes_))
        self.examples_, self.votes_ = np.asarray(X), np.zeros((len(rows), len(self.classes_)))
        self.votes_[np.arange(len(rows)), rows] = counts[counts > 0].mean() / counts[rows]
        by_name = self.logit_scale * self.examples_ @ self.class_embeddings.T  # (examples, classes)
        results = []
        for beta in self.betas:
            votes = self._votes(self.examples_, beta, leave_one_out=True)
            for alpha in self.alphas:
                logits = by_name + alpha * votes
                accuracy = float((np.argmax(logits, axis=1) == rows).mean())
                probabilities = softmax(logits, axis=1)[np.arange(len(rows)), rows]
                results.append((accuracy, float(np.log(np.maximum(probabilities, 1e-12)).mean()), alpha, beta))
        *_, self.alpha_, self.beta_ = max(results)
        return self

    def predict_proba(self, X: Embeddings) -> NDArray[np.float64]:  # noqa: N803
        """Class probabilities: (images, classes)."""
        check_is_fitted(self)
        by_name = self.logit_scale * X @ self.class_embeddings.T
        return softmax(by_name + self.alpha_ * self._votes(X, self.beta_), axis=1)

    def _votes(self, images: NDArray[np.floating], beta: float, *, leave_one_out: bool = False) -> NDArray[np.float64]:
        """The examples' votes for each image, block by block: (images, classes)."""
        votes = np.empty((len(images), len(self.classes_)))
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            similarity = np.exp(-beta * (1 - block @ self.examples_.T))  # (block, examples)
            if leave_one_out:  # the images are the examples, and none votes for itself
                similarity[np.arange(len(block)), start + np.arange(len(block))] = 0
            votes[start : start + _BLOCK] = similarity @ self.votes_
        return votes


class LinearProbe(EmbeddingClassifier):
    """Multinomial logistic regression on image embeddings, `C` chosen by cross-validated likelihood.

    Args:
        classes: labels of all classes; those of the examples by default. A class without examples gets probability 0.
        strengths: candidates for `C`.
        folds: number of folds; fewer if a class has fewer examples.
        random_state: seed of the folds.

    Attributes:
        strength_: chosen `C`; 10 if a class has fewer than two examples.
        regression_: the fitted `sklearn.linear_model.LogisticRegression`.

    >>> probe = LinearProbe(["cat", "cow", "dog"]).fit(np.eye(2)[[0, 0, 1, 1]], ["cat", "cat", "dog", "dog"])
    >>> probe.predict(np.eye(2)).tolist(), probe.predict_proba(np.eye(2))[:, 1].tolist()
    (['cat', 'dog'], [0.0, 0.0])
    """

    def __init__(
        self,
        classes: ArrayLike | None = None,
        *,
        strengths: Sequence[float] = STRENGTHS,
        folds: int = 3,
        random_state: int = 0,
    ) -> None:
        self.classes, self.strengths, self.folds, self.random_state = classes, strengths, folds, random_state

    def fit(self, X: Embeddings, y: ArrayLike) -> Self:  # noqa: N803
        """Choose `C` and fit the regression.

        Args:
            X: (examples, dim) embeddings.
            y: (examples,) labels.

        Raises:
            DataError: there is no example, the lengths differ, all are of one class, or a label is not in `classes`.
        """
        self.classes_ = np.unique(np.asarray(y)) if self.classes is None else np.asarray(self.classes)
        rows = _class_rows(X, y, self.classes_)
        counts = np.unique(rows, return_counts=True)[1]
        if len(counts) < 2:
            raise DataError("all examples are of one class; a linear probe needs examples of at least two")
        embeddings = np.asarray(X, np.float64)
        if counts.min() < 2:
            self.strength_ = 10.0
            self.regression_ = LogisticRegression(C=self.strength_, max_iter=1000).fit(embeddings, rows)
            return self
        # Not LogisticRegressionCV: it chooses the same C, but its warm starts stop the solver elsewhere, and it warns
        # about arguments that scikit-learn 1.4 does not have.
        folds = StratifiedKFold(min(self.folds, counts.min()), shuffle=True, random_state=self.random_state)
        search = GridSearchCV(
            LogisticRegression(max_iter=1000), {"C": list(self.strengths)}, scoring="neg_log_loss", cv=folds
        ).fit(embeddings, rows)
        self.strength_, self.regression_ = float(search.best_params_["C"]), search.best_estimator_
        return self

    def predict_proba(self, X: Embeddings) -> NDArray[np.float64]:  # noqa: N803
        """Class probabilities: (images, classes)."""
        check_is_fitted(self)
        probabilities = np.zeros((len(X), len(self.classes_)))
        if len(X):
            probabilities[:, self.regression_.classes_] = self.regression_.predict_proba(np.asarray(X, np.float64))
        return probabilities


_NAMED = 5  # classes that a message names


def cross_validated_probabilities(
    classifier: EmbeddingClassifier,
    X: Embeddings,  # noqa: N803
    y: ClassLabels,
    *,
    folds: int = 5,
    shots: int | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Out-of-fold probabilities: (images, classes), each row by a clone of `classifier` fitted without that image.

    Unlike scikit-learn's `cross_val_predict`, it keeps columns for classes that `y` does not contain.

    Args:
        classifier: a classifier with a fixed list of classes; it is cloned, not fitted.
        X: (images, dim) unit vectors.
        y: (images,) labels.
        folds: number of stratified folds; fewer if a class has fewer images.
        shots: fit on this many examples of each class in each fold (`few_shots`); on all by default.
        seed: of folds and shots.

    Raises:
        DataError: a class has a single image.
    """
    labels, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        single = [f"'{label}'" for label in labels[counts < 2]]
        more = f" and {len(single) - _NAMED:,} more" if len(single) > _NAMED else ""
        raise DataError(
            f"classes with a single image cannot be cross-validated: {', '.join(single[:_NAMED])}{more}; "
            "give each two or more, or leave it out"
        )
    splits = StratifiedKFold(min(folds, counts.min()), shuffle=True, random_state=seed)
    rows: list[NDArray[np.float64]] = [np.empty(0)] * len(y)
    for train, test in splits.split(X, y):
        chosen = train if shots is None else train[few_shots(y[train], shots, seed=seed)]
        fitted = clone(classifier).fit(X[chosen], y[chosen])
        for row, probabilities in zip(test, fitted.predict_proba(X[test]), strict=True):
            rows[row] = probabilities
    return np.array(rows)


def class_ranks(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The rank of each image's own class, from 1: (images,); ties count against it.

    Args:
        probabilities: (images, classes).
        labels: (images,) integers in [0, classes): the column of each image's class.

    >>> class_ranks(np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 1])).tolist()
    [1, 2]
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    return (probabilities >= own).sum(axis=1)


def few_shots(labels: ClassLabels, shots: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of `shots` random examples of each class, ascending; all examples of a class that has fewer.

    >>> few_shots(np.array(["cat", "dog", "dog", "dog"]), 3).tolist()
    [0, 1, 2, 3]
    """
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def _labels(classes: ArrayLike | None, count: int) -> ClassLabels:
    labels = np.arange(count) if classes is None else np.asarray(classes)
    if len(labels) != count:
        raise DataError(f"{len(labels)} classes and {count} class embeddings; give one embedding for each class")
    return labels


def _class_rows(embeddings: Embeddings, y: ArrayLike, classes: ClassLabels) -> NDArray[np.int64]:
    """The position of each label in `classes`: (examples,)."""
    labels = np.asarray(y)
    if not len(labels) or len(embeddings) != len(labels):
        raise DataError(f"{len(embeddings)} embeddings and {len(labels)} labels; give one label each, and at least one")
    order = np.argsort(classes, kind="stable")
    rows = order[np.minimum(np.searchsorted(classes, labels, sorter=order), len(classes) - 1)]
    if (unknown := classes[rows] != labels).any():
        raise DataError(f"label '{labels[unknown][0]}' is not one of the {len(classes)} classes")
    return rows
