"""Cosines, ranks and normalised figures of predicted prompts, against answers worked out by hand and a slow twin."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.evaluation.match_plots import cosine_histogram
from diptych.evaluation.metrics import similarity
from diptych.evaluation.metrics.similarity import paired_cosines, prompt_ranks, similarity_metrics


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(similarity).failed == 0


def test_the_scores_equal_those_worked_out_by_hand() -> None:
    predicted = np.array([[1.0, 0.0], [0.0, 1.0]])
    prompts = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]])
    scores = similarity_metrics(predicted, prompts, np.array([0, 0, 1]), floor=0.5)
    # cosines 0.6, 1 and 0.6; to picture 0 the other's prompt has 0.8; to picture 1 the others have 0.8 and 0
    assert scores.mean == pytest.approx(2.2 / 3)
    assert scores.median == pytest.approx(0.6)
    assert scores.normalised == pytest.approx((2.2 / 3 - 0.5) / 0.5)
    assert scores.median_rank == 2  # 2, 1, 2
    assert scores.median_first_rank == 1.5  # 1, 2
    assert scores.to_dict()["quantile_0.5"] == pytest.approx(0.6)


def test_a_prediction_that_is_the_truth_scores_one_and_ranks_first() -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5))
    scores = similarity_metrics(vectors, vectors, np.arange(7), floor=0.1)
    assert scores.mean == pytest.approx(1)
    assert scores.normalised == pytest.approx(1)
    assert scores.median_rank == 1


def test_a_prompt_that_another_image_has_too_is_never_first() -> None:
    predicted, prompts = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert prompt_ranks(predicted, prompts, np.array([0, 1])).tolist() == [2, 2]
    random = np.random.default_rng(0)
    for count in range(3, 60):  # the products of one vector with two equal ones may differ in their last digits
        vectors = random.normal(size=(count, 384))
        vectors[-1] = vectors[0]
        assert prompt_ranks(vectors, vectors, np.arange(count))[[0, -1]].tolist() == [2, 2]


def test_images_without_a_prompt_are_left_out_of_the_counts() -> None:
    scores = similarity_metrics(np.eye(3), np.array([[0.0, 1.0, 0.0]]), np.array([1]))
    assert (scores.images, scores.prompts, scores.normalised) == (1, 1, None)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**31))
def test_ranks_equal_those_of_the_slow_twin(images: int, prompts: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    predicted, truth = random.normal(size=(images, 3)), random.normal(size=(prompts, 3))
    owner = random.integers(images, size=prompts)
    slow = []
    for own, text in zip(owner, truth, strict=True):
        wanted = predicted[own]
        near = [float(other @ wanted / np.linalg.norm(other)) for other in truth[owner != own]]
        slow.append(1 + sum(cosine >= float(text @ wanted / np.linalg.norm(text)) for cosine in near))
    assert prompt_ranks(predicted, truth, owner).tolist() == slow
    length = np.linalg.norm(truth, axis=1) * np.linalg.norm(predicted[owner], axis=1)
    np.testing.assert_allclose(paired_cosines(predicted, truth, owner), (truth * predicted[owner]).sum(1) / length)


def test_missing_prompts_and_wrong_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="0 prompts"):
        similarity_metrics(np.eye(2), np.empty((0, 2)), np.empty(0, int))
    with pytest.raises(ValueError, match="spans 0 to 2; there are 2 images"):
        similarity_metrics(np.eye(2), np.eye(2), np.array([0, 2]))


def test_the_histogram_labels_every_mark() -> None:
    cosines = np.random.default_rng(0).normal(0.5, 0.2, 300).clip(-1, 1)
    figure = cosine_histogram(cosines, {"prompter": 0.5, "mean embedding": 0.3}, "dev")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["prompter: mean 0.500", "mean embedding: mean 0.300"]
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == (cosines >= figure.axes[0].get_xlim()[0]).sum()
