"""Classifiers of embeddings: their formulas, scikit-learn's protocol, and what examples add to names."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from diptych.errors import DataError
from diptych.evaluation import classifiers
from diptych.evaluation.classifiers import (
    EmbeddingClassifier,
    LinearProbe,
    TipAdapter,
    ZeroShotClassifier,
    cross_validated_probabilities,
    few_shots,
)

Clouds = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]


def test_the_worked_examples_hold() -> None:
    outcome = doctest.testmod(classifiers)
    assert outcome.attempted
    assert not outcome.failed


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def clouds() -> Clouds:
    """Four classes of 30 embeddings each, and class embeddings that are wrong for two of them."""
    random = np.random.default_rng(0)
    centres = unit(random.normal(size=(4, 16)))
    labels = np.repeat(np.arange(4), 30)
    embeddings = unit(centres[labels] + 0.25 * random.normal(size=(120, 16)))
    names = unit(centres + np.array([[0], [0], [1], [1]]) * random.normal(size=(4, 16)))
    return embeddings, labels, names


def test_zero_shot_is_the_softmax_of_scaled_cosines() -> None:
    probabilities = ZeroShotClassifier(np.eye(2), logit_scale=2.0).fit().predict_proba(np.array([[1.0, 0.0]]))
    assert probabilities[0, 0] == pytest.approx(np.exp(2) / (np.exp(2) + 1))


def test_the_adapter_is_its_formula() -> None:
    names, examples = np.eye(3), unit(np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 1]]))
    adapter = TipAdapter(names, logit_scale=10.0, alphas=(2.0,), betas=(5.5,)).fit(examples, np.arange(3))
    x = unit(np.array([[1.0, 2, 3]]))
    logits = 10 * x @ names.T + 2 * np.exp(-5.5 + 5.5 * x @ examples.T) @ np.eye(3)  # as in the authors' code
    np.testing.assert_allclose(adapter.predict_proba(x), np.exp(logits) / np.exp(logits).sum())


@pytest.mark.parametrize("labels", [None, ["ant", "bee", "cat", "dog"]])
@pytest.mark.parametrize("kind", [ZeroShotClassifier, TipAdapter, LinearProbe])
def test_the_classifiers_follow_scikit_learns_protocol(
    clouds: Clouds, kind: type[EmbeddingClassifier], labels: list[str] | None
) -> None:
    embeddings, rows, names = clouds
    y = rows if labels is None else np.array(labels)[rows]
    classifier = LinearProbe(labels) if kind is LinearProbe else kind(names, labels, logit_scale=20.0)
    with pytest.raises(NotFittedError):
        classifier.predict(embeddings)
    copy = clone(classifier)
    assert copy.get_params().keys() == classifier.get_params().keys()
    assert copy.fit(embeddings, y) is copy
    assert copy.classes_.tolist() == (labels or [0, 1, 2, 3])
    probabilities = copy.predict_proba(embeddings)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(copy.predict(embeddings), copy.classes_[probabilities.argmax(axis=1)])
    assert copy.score(embeddings, y) == pytest.approx((copy.predict(embeddings) == y).mean())


def test_parameters_can_be_set_and_scikit_learn_cross_validates() -> None:
    random = np.random.default_rng(0)
    embeddings, labels = unit(random.normal(size=(40, 8)) + 3 * np.eye(8)[[0, 1] * 20]), np.array(["a", "b"] * 20)
    probe = LinearProbe().set_params(strengths=(1.0,), folds=2)
    assert cross_val_score(probe, embeddings, labels, cv=4).mean() > 0.9
    assert probe.fit(embeddings, labels).strength_ == 1.0


def test_examples_help_where_names_mislead(clouds: Clouds) -> None:
    embeddings, labels, names = clouds
    rows = few_shots(labels, 4)
    others = np.setdiff1d(np.arange(len(labels)), rows)
    by_name = ZeroShotClassifier(names, logit_scale=20.0).fit().score(embeddings[others], labels[others])
    for classifier in (TipAdapter(names, logit_scale=20.0), LinearProbe()):
        assert classifier.fit(embeddings[rows], labels[rows]).score(embeddings[others], labels[others]) > by_name


def test_the_probe_equals_a_search_by_hand(clouds: Clouds) -> None:
    embeddings, labels, _ = clouds
    folds = StratifiedKFold(3, shuffle=True, random_state=5)
    likelihood = {
        strength: cross_val_score(
            LogisticRegression(C=strength, max_iter=1000), embeddings, labels, cv=folds, scoring="neg_log_loss"
        ).mean()
        for strength in classifiers.STRENGTHS
    }
    best = max(likelihood, key=lambda strength: likelihood[strength])
    probe = LinearProbe(random_state=5).fit(embeddings, labels)
    assert probe.strength_ == best
    expected = LogisticRegression(C=best, max_iter=1000).fit(embeddings, labels).predict_proba(embeddings)
    np.testing.assert_allclose(probe.predict_proba(embeddings), expected)


def test_an_adapter_fitted_block_by_block_is_the_same(clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels, names = clouds
    adapter = TipAdapter(names, logit_scale=20.0)
    whole = clone(adapter).fit(embeddings, labels)
    expected = whole.predict_proba(embeddings)
    monkeypatch.setattr(classifiers, "_BLOCK", 7)
    again = clone(adapter).fit(embeddings, labels)
    assert (again.alpha_, again.beta_) == (whole.alpha_, whole.beta_)
    np.testing.assert_allclose(again.predict_proba(embeddings), expected)
    assert again.predict_proba(embeddings[:0]).shape == (0, len(names))


def test_a_class_does_not_win_by_having_more_examples() -> None:
    embeddings = np.eye(4)[[2] * 9 + [3]]
    adapter = TipAdapter(np.eye(4)[:2], logit_scale=1.0).fit(embeddings, np.array([0] * 9 + [1]))
    np.testing.assert_allclose(adapter.votes_.sum(axis=0), [5, 5])


def test_examples_of_equal_number_vote_as_in_the_paper(clouds: Clouds) -> None:
    embeddings, labels, names = clouds
    adapter = TipAdapter(names, logit_scale=1.0).fit(embeddings, labels)
    np.testing.assert_array_equal(adapter.votes_, np.eye(4)[labels])


def test_a_class_without_examples_has_probability_zero_by_the_probe() -> None:
    probe = LinearProbe(range(3)).fit(np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 2, 2]))
    probabilities = probe.predict_proba(np.eye(3))
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probe.predict_proba(np.empty((0, 3))).shape == (0, 3)


class Memory(EmbeddingClassifier):
    """The label of the most similar example: always right on what it was fitted on."""

    def fit(self, X: NDArray[np.float64], y: NDArray[np.int64]) -> Memory:  # noqa: N803
        self.examples_, self.labels_, self.classes_ = X, y, np.arange(2)
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803
        return np.eye(2)[self.labels_[(X @ self.examples_.T).argmax(axis=1)]]


def test_no_image_is_predicted_by_a_classifier_that_was_fitted_on_it() -> None:
    """Embeddings that are independent of the labels: only a classifier that has seen them predicts them."""
    random = np.random.default_rng(0)
    embeddings, labels = unit(random.normal(size=(60, 64))), random.integers(2, size=60)
    assert Memory().fit(embeddings, labels).score(embeddings, labels) == 1.0
    probabilities = cross_validated_probabilities(Memory(), embeddings, labels)
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.75


def test_shots_are_as_many_of_each_class_as_there_are() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2] * 5)
    rows = few_shots(labels, 3)
    assert np.bincount(labels[rows]).tolist() == [3, 2, 3]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == few_shots(labels, 3).tolist()


def test_unusable_examples_are_refused() -> None:
    with pytest.raises(DataError, match="of one class"):
        LinearProbe().fit(np.eye(2), np.array([0, 0]))
    with pytest.raises(DataError, match="at least one"):
        TipAdapter(np.eye(2)).fit(np.empty((0, 2)), np.empty(0, int))
    with pytest.raises(DataError, match="'fox' is not one of the 2 classes"):
        TipAdapter(np.eye(2), ["cat", "dog"]).fit(np.eye(2), ["cat", "fox"])
    with pytest.raises(DataError, match="3 classes and 2 class embeddings"):
        ZeroShotClassifier(np.eye(2), ["cat", "dog", "fox"]).fit()
    with pytest.raises(DataError, match="single image cannot be cross-validated: '0', '1'"):
        cross_validated_probabilities(ZeroShotClassifier(np.eye(2)), np.eye(2), np.array([0, 1]))


def test_a_probe_with_one_example_a_class_has_a_fixed_strength() -> None:
    assert LinearProbe().fit(np.eye(2), np.array([0, 1])).strength_ == 10.0
