"""Bootstrap intervals and paired differences, against resampling by hand, scikit-learn and known distributions."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diptych.evaluation.metrics import bootstrap
from diptych.evaluation.metrics.bootstrap import (
    auc_statistic,
    bootstrap_interval,
    bootstrap_intervals,
    least_groups,
    mean_statistic,
    paired_difference,
    percentile_interval,
    resample_statistics,
)


def test_the_worked_examples_hold() -> None:
    outcome = doctest.testmod(bootstrap)
    assert outcome.attempted
    assert not outcome.failed


def test_a_bootstrap_draws_groups_so_that_copies_of_a_value_add_no_certainty():
    values = np.random.default_rng(0).random(30)
    once = bootstrap_interval(values, np.arange(30), resamples=200)
    shuffled = np.random.default_rng(1).permutation(np.repeat(np.arange(30), 5))
    assert bootstrap_interval(values[shuffled], shuffled, resamples=200) == pytest.approx(once)
    alone = bootstrap_interval(values[shuffled], np.arange(150), resamples=200)
    assert alone[1] - alone[0] < 0.7 * (once[1] - once[0])  # about 1 / sqrt(5) if captions are drawn instead


def test_an_interval_covers_the_truth_as_often_as_its_level_says():
    generator = np.random.default_rng(3)
    samples = [generator.random(60) < 0.4 for _ in range(200)]
    intervals = [bootstrap_interval(sample, np.arange(60), level=0.8, resamples=100) for sample in samples]
    coverage = np.mean([low <= 0.4 <= high for low, high in intervals])
    assert 0.7 <= coverage <= 0.9


def test_a_bootstrap_takes_any_statistic_and_repeats_itself():
    values = np.arange(11.0)
    low, high = bootstrap_interval(values, np.arange(11), np.median, seed=4)
    assert low < 5 < high
    assert (low, high) == bootstrap_interval(values, np.arange(11), np.median, seed=4)
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval(values, np.arange(3))


def test_intervals_hold_the_mean_and_shrink_with_more_groups() -> None:
    random = np.random.default_rng(0)

    def width(images: int) -> float:
        groups = np.repeat(np.arange(images), 5)
        values = random.random(len(groups))
        low, high = bootstrap_intervals(lambda w: {"mean": float(np.average(values, weights=w))}, groups)["mean"]
        assert low < values.mean() < high
        return high - low

    assert width(1000) < width(50) / 2


def test_groups_and_not_observations_are_drawn() -> None:
    groups = np.repeat(np.arange(30), 100)
    values = (groups % 2).astype(float)  # all pairs of an image are equal: 30 independent numbers, not 3,000
    low, high = bootstrap_intervals(lambda w: {"mean": float(np.average(values, weights=w))}, groups)["mean"]
    assert high - low > 0.25


def test_a_weighted_mean_equals_that_of_the_values_drawn_one_by_one() -> None:
    random = np.random.default_rng(0)
    values, owner = random.normal(size=40), random.integers(10, size=40)
    drawn = random.integers(10, size=10)
    by_hand = np.concatenate([values[owner == group] for group in drawn]).mean()
    weights = np.bincount(drawn, minlength=10).astype(float)
    assert mean_statistic(values, owner, 10)(weights) == pytest.approx(by_hand)


def test_the_auc_equals_scikit_learns_with_weights_and_ties() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(8, size=200).astype(float), random.random(200) < 0.4
    owner = random.integers(30, size=200)
    weights = np.bincount(random.integers(30, size=30), minlength=30).astype(float)
    expected = roc_auc_score(labels, scores, sample_weight=weights[owner])
    assert auc_statistic(scores, labels, owner)(weights) == pytest.approx(expected)


def test_a_small_difference_on_every_image_is_significant_and_one_on_a_few_images_is_not() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=300)
    steady, lucky = base + 0.05, base.copy()
    lucky[:3] += 5
    owner = np.arange(300)
    draws = resample_statistics([mean_statistic(v, owner, 300) for v in (base, steady, lucky)], 300, resamples=500)
    own = [
        paired_difference(v.mean(), base.mean(), draws[:, column], draws[:, 0])
        for column, v in ((1, steady), (2, lucky))
    ]
    assert own[0].value == pytest.approx(0.05)
    assert own[1].value == pytest.approx(0.05)
    assert own[0].significant
    assert not own[1].significant
    overlap = np.percentile(draws[:, 0], 97.5) > np.percentile(draws[:, 1], 2.5)
    assert overlap  # unpaired intervals would have missed the difference


def test_equal_models_differ_significantly_no_more_often_than_the_level_says() -> None:
    random = np.random.default_rng(1)
    significant = 0
    for seed in range(100):
        first, second = random.random((2, 150)) < 0.3
        owner = np.arange(150)
        draws = resample_statistics(
            [mean_statistic(1.0 * v, owner, 150) for v in (first, second)], 150, resamples=200, seed=seed
        )
        significant += paired_difference(first.mean(), second.mean(), draws[:, 0], draws[:, 1]).significant
    assert significant <= 12


def test_draws_on_which_a_statistic_is_undefined_are_left_out() -> None:
    assert percentile_interval([np.nan, 1.0, 1.0]) == (1.0, 1.0)


def test_resampling_by_weights_equals_resampling_of_the_values() -> None:
    random = np.random.default_rng(0)
    values, groups = random.normal(size=50), random.integers(12, size=50)
    draws = np.random.default_rng(7)
    means = []
    for _ in range(100):
        drawn = draws.integers(12, size=12)
        means.append(np.concatenate([values[groups == group] for group in drawn]).mean())
    expected = np.quantile(means, [0.05, 0.95])
    assert bootstrap_interval(values, groups, level=0.9, resamples=100, seed=7) == pytest.approx(expected)
    by_weight = bootstrap_intervals(
        lambda w: {"mean": float(np.average(values, weights=w))}, groups, level=0.9, resamples=100, seed=7
    )
    assert by_weight["mean"] == pytest.approx(expected)


@pytest.mark.parametrize(("groups", "significant"), [(2, False), (5, False), (6, True), (7, True)])
def test_a_difference_on_a_handful_of_images_is_never_significant(groups: int, significant: bool) -> None:
    """Two models, right and wrong on every image: of two images every draw says 100, and so may chance."""
    statistics = [mean_statistic(np.full(groups, value), np.arange(groups), groups) for value in (100.0, 0.0)]
    draws = resample_statistics(statistics, groups, resamples=50)
    difference = paired_difference(100.0, 0.0, draws[:, 0], draws[:, 1], groups=groups)
    assert (difference.low, difference.high) == (100.0, 100.0)
    assert difference.significant is significant


def test_more_comparisons_need_more_images() -> None:
    assert [least_groups(1 - 0.05 / comparisons) for comparisons in (1, 3, 10)] == [6, 7, 9]
