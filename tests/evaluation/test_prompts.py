"""Prompt baselines and the agreement between prompts, against answers worked out by hand."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest

from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.evaluation import prompts
from diptych.evaluation.prompts import (
    MEAN,
    NEIGHBOUR,
    NEIGHBOURS,
    OTHERS,
    PromptBaselines,
    PromptEvaluator,
    mean_embeddings,
)


def pairs(*texts: tuple[str, ...]) -> Pairs:
    return Pairs.from_rows(Row(f"{row}.jpg", Path(f"{row}.jpg"), own) for row, own in enumerate(texts))


def test_the_worked_examples_hold() -> None:
    outcome = doctest.testmod(prompts)
    assert outcome.attempted
    assert not outcome.failed


def test_mean_embeddings_are_means_and_not_sums() -> None:
    embeddings = np.array([[2.0, 0.0], [0.0, 4.0], [6.0, 2.0]], np.float32)
    np.testing.assert_array_equal(mean_embeddings(embeddings, np.array([1, 1, 0]), 2), [[6, 2], [1, 2]])


def test_the_baselines_are_the_mean_and_the_prompts_of_the_nearest_training_image() -> None:
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # of training images 0, 1 and 1
    baselines = PromptBaselines(embeddings, np.array([0, 1, 1]), np.array([[0.1, 0.9]]), np.eye(2))
    np.testing.assert_allclose(baselines.mean(1), [[1 / 3, 4 / 3]])
    nearest = baselines.nearest()
    assert nearest[NEIGHBOUR].tolist() == [[0.0, 1.0]]
    assert nearest[NEIGHBOURS].tolist() == [[0.0, 2.0]]


def test_a_training_image_without_prompts_is_nobodys_nearest() -> None:
    """Image 0 has the nearest features but no prompt; the prompts of the others keep their images."""
    features = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    baselines = PromptBaselines(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 2]), np.array([[1.0, 0.0]]), features)
    assert baselines.nearest()[NEIGHBOUR].tolist() == [[1.0, 2.0]]


def test_the_mean_embedding_has_a_normalised_cosine_of_zero_and_the_truth_one() -> None:
    truth = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores = PromptEvaluator(pairs(("a",), ("b",)), truth)({"truth": truth}, baselines=PromptBaselines(truth))
    assert scores["truth"].normalised == pytest.approx(1)
    assert scores[MEAN].normalised == pytest.approx(0)
    assert OTHERS not in scores


def test_prompts_of_one_image_are_compared_with_the_mean_of_the_others() -> None:
    truth = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    scores = PromptEvaluator(pairs(("a", "b", "c")), truth)({})
    first, others = 1.0, (0.6 * 1.6 - 0.8 * 0.8) / np.hypot(1.6, 0.8)
    assert scores[OTHERS].mean == pytest.approx((first + 2 * others) / 3)
    assert scores[OTHERS].median == pytest.approx(others)


def test_pairs_without_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 images has a prompt"):
        PromptEvaluator(pairs(()), np.empty((0, 2)))
