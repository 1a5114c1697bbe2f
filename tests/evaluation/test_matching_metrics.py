from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from diptych.data.labelled import Labelled
from diptych.data.pairs import Pairs, Row
from diptych.errors import ConfigError, DataError
from diptych.evaluation.evaluators import MatchEvaluator, evaluate_match
from diptych.evaluation.metrics import matching
from diptych.evaluation.metrics.matching import (
    best_threshold,
    calibration_error,
    matching_metrics,
    reliability,
    threshold_for_precision,
)
from diptych.matching import calibration
from diptych.matching.calibration import Calibration, fit_calibration, sigmoid
from diptych.matching.negatives import LabelledPairs
from diptych.training import objectives

judged = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=4, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def arrays(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs]) / 20, np.array([y for _, y in pairs])


@pytest.mark.parametrize("module", [matching, calibration, objectives])
def test_the_examples_of_the_docstrings_hold(module) -> None:
    assert not doctest.testmod(module).failed


@given(judged, st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_decisions_equal_scikit_learns_and_auc_is_the_fraction_of_pairs_in_order(pairs, twentieths) -> None:
    p, y = arrays(pairs)
    scores = matching_metrics(p, y, threshold=twentieths / 20)
    called = p >= twentieths / 20
    assert scores.precision == pytest.approx(precision_score(y, called, zero_division=0))
    assert scores.recall == pytest.approx(recall_score(y, called, zero_division=0))
    assert scores.f1 == pytest.approx(f1_score(y, called, zero_division=0))
    ordered = [(a > b) + 0.5 * (a == b) for a in p[y] for b in p[~y]]
    assert scores.auc == pytest.approx(np.mean(ordered))


@given(judged, st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_the_calibration_error_equals_a_loop_over_bins(pairs, bins) -> None:
    p, y = arrays(pairs)
    total = 0.0
    for number in range(bins):
        last = number == bins - 1
        inside = (p * bins >= number) & ((p * bins < number + 1) | last)
        if inside.any():
            total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    assert calibration_error(p, y, bins=bins) == pytest.approx(total)


def test_calibrated_probabilities_have_no_calibration_error_and_overconfident_ones_do() -> None:
    labels = np.repeat([1, 0, 1, 0], [80, 20, 30, 70])
    honest = np.repeat([0.8, 0.8, 0.3, 0.3], [80, 20, 30, 70])
    boasting = np.repeat([1.0, 1.0, 0.0, 0.0], [80, 20, 30, 70])
    assert calibration_error(honest, labels) == pytest.approx(0, abs=1e-12)
    assert calibration_error(boasting, labels) == pytest.approx(0.25)
    assert reliability(honest, labels, bins=10).share.tolist() == [0.5, 0.5]


def test_a_weight_of_two_equals_the_pair_twice() -> None:
    p, y, w = np.array([0.9, 0.4, 0.6, 0.2]), np.array([1, 1, 0, 0]), np.array([2, 1, 1, 3])
    once, twice = matching_metrics(p, y, weights=w), matching_metrics(np.repeat(p, w), np.repeat(y, w))
    for name in ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "brier", "ece"):
        assert getattr(once, name) == pytest.approx(getattr(twice, name)), name


@given(judged, st.sampled_from([0.3, 0.5, 0.75, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_threshold_for_a_precision_is_the_lowest_that_reaches_it(pairs, precision) -> None:
    p, y = arrays(pairs)
    having = [t for t in sorted(set(p)) if y[p >= t].mean() >= precision]
    assert threshold_for_precision(p, y, precision) == (having[0] if having else None)


@given(judged)
@settings(max_examples=40, deadline=None)
def test_no_threshold_is_more_accurate_than_the_best(pairs) -> None:
    p, y = arrays(pairs)
    threshold = best_threshold(p, y)
    assert ((p >= threshold) == y).mean() == max(((p >= t) == y).mean() for t in p)


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        ([0.5, 1.2], [0, 1], "outside"),
        ([0.5, float("nan")], [0, 1], "NaN"),
        ([0.5, 0.2], [1, 1], "both"),
        ([0.5, 0.2], [1], "all must be"),
        ([0.5, 0.2], [1, 2], "0 and 1"),
    ],
)
def test_values_that_are_not_probabilities_or_labels_are_refused(probabilities, labels, words) -> None:
    with pytest.raises(ValueError, match=words):
        matching_metrics(np.array(probabilities), np.array(labels))


# calibration


def drawn(count: int = 20_000, prior: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Evidence and labels of which the true probability is known to be logistic."""
    random = np.random.default_rng(seed)
    labels = random.random(count) < prior
    evidence = random.normal(size=(count, 4))
    evidence[:, 0] += np.where(labels, 1.0, -1.0)
    evidence[:, 1] = 0.1 * evidence[:, 1] + np.where(labels, 0.3, 0.1)
    evidence[:, 3] -= 0.5 * labels  # texts that are near to everything match less
    return evidence, labels


def test_a_fitted_calibration_is_calibrated_on_unseen_pairs() -> None:
    fitted = fit_calibration(*drawn(seed=0))
    evidence, labels = drawn(seed=1)
    assert calibration_error(fitted(evidence), labels) < 0.015
    assert calibration_error(sigmoid(evidence[:, 0]), labels) > 0.05


def test_the_fit_equals_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    evidence, labels = drawn(2000)
    fitted = fit_calibration(evidence, labels, prior=labels.mean(), use=("head", "cosine", "text_hub"))
    columns = evidence[:, [0, 1, 3]]
    reference = LogisticRegression(C=1e9, max_iter=1000).fit(columns, labels)
    found = [fitted.weights["head"], fitted.weights["cosine"], fitted.weights["text_hub"]]
    np.testing.assert_allclose(found, reference.coef_[0], rtol=2e-2)
    straight = replace(fitted, knots=())
    np.testing.assert_allclose(straight(evidence), reference.predict_proba(columns)[:, 1], atol=5e-3)


def test_the_prior_adjusts_probabilities_to_another_fraction_of_matches() -> None:
    fitted = fit_calibration(*drawn(seed=0))
    evidence, labels = drawn(count=60_000, prior=0.1, seed=2)
    assert calibration_error(fitted(evidence, prior=0.1), labels) < 0.01
    assert calibration_error(fitted(evidence), labels) > 0.03
    np.testing.assert_allclose(fitted(evidence, prior=0.5), fitted(evidence))


def test_matches_weigh_the_prior_whatever_their_number() -> None:
    fitted = fit_calibration(*drawn(prior=0.8), prior=0.5)
    evidence, labels = drawn(seed=1)
    assert calibration_error(fitted(evidence), labels) < 0.02


def test_the_best_ranking_weights_are_chosen_and_probabilities_stay_calibrated() -> None:
    random = np.random.default_rng(0)
    candidates = random.normal(size=(3000, 8, 4))
    candidates[:, :, 3] = 0
    own = random.integers(8, size=3000)
    rows = np.arange(3000)
    candidates[rows, own, 0] += 2  # the head tells; the cosine does not
    evidence, labels = candidates.reshape(-1, 4), (own[:, None] == np.arange(8)).ravel()
    fitted = fit_calibration(evidence, labels, candidates=(candidates, own), prior=1 / 8)
    assert fitted.weights["head"] == pytest.approx(2, rel=0.1)  # the log-ratio of two unit Gaussians, 2 apart
    assert abs(fitted.weights.get("cosine", 0)) < 0.1
    assert calibration_error(fitted(evidence), labels) < 0.02


def test_the_curve_is_monotonic_and_fits_what_no_sigmoid_can() -> None:
    def saturated(seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the surest pairs only seven in ten match, as with hard negatives that fit as well."""
        random = np.random.default_rng(seed)
        evidence = np.zeros((20_000, 4))
        evidence[:, 0] = random.uniform(-4, 4, 20_000)
        return evidence, random.random(20_000) < 0.7 * sigmoid(3 * evidence[:, 0])

    evidence, labels = saturated(0)
    fitted = fit_calibration(evidence, labels, prior=labels.mean())
    evidence, labels = saturated(1)
    assert calibration_error(replace(fitted, knots=())(evidence), labels) > 0.03
    assert calibration_error(fitted(evidence), labels) < 0.015
    order = np.argsort(evidence[:, 0])
    assert (np.diff(fitted(evidence)[order]) > 0).all()


def test_a_head_that_learned_nothing_never_reverses_the_order() -> None:
    evidence, labels = drawn()
    evidence[:, 0] *= -1
    fitted = fit_calibration(evidence, labels)
    assert "head" not in fitted.weights
    assert fitted.weights["cosine"] > 0
    assert fitted.weights["text_hub"] < 0


def test_a_prior_of_0_or_1_and_labels_of_one_kind_are_refused() -> None:
    evidence, labels = drawn(100)
    with pytest.raises(ConfigError, match="above 0"):
        Calibration({"head": 1.0}, 0)(evidence, prior=1.0)
    with pytest.raises(DataError, match="both"):
        fit_calibration(evidence, np.ones_like(labels))


def one_set(labels: list[int]) -> LabelledPairs:
    every = np.arange(len(labels))
    return LabelledPairs(every, every, np.array(labels), every, {"labelled": every})


@pytest.mark.parametrize(("labels", "words"), [([1, 1, 1], "all of the 3 pairs"), ([0, 0], "none of the 2 pairs")])
def test_pairs_of_one_label_are_refused_in_a_sentence(labels: list[int], words: str) -> None:
    with pytest.raises(DataError, match=f"{words} of the set 'labelled' are matches"):
        MatchEvaluator(one_set(labels))(np.full(len(labels), 0.5))


def test_pairs_of_one_label_are_refused_before_the_images_are_read() -> None:
    images = Pairs.from_rows([Row("a", Path("nowhere.jpg"), ("x",))])
    data = Labelled(images, ["x"], np.array([0]), np.array([1]))
    with pytest.raises(DataError, match="all of the 1 pairs"):
        evaluate_match(None, data)  # type: ignore[arg-type]


def test_draws_of_one_label_leave_the_interval_of_the_others() -> None:
    report = MatchEvaluator(one_set([1, 0]), resamples=20)(np.array([0.9, 0.1]))
    assert report.intervals["labelled"]["auc"] == (1.0, 1.0)
