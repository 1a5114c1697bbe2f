from __future__ import annotations

import doctest

import numpy as np
import pytest

from diptych.models import cosine
from diptych.models.cosine import normalize, top_k


def test_the_worked_examples_hold() -> None:
    outcome = doctest.testmod(cosine)
    assert outcome.attempted
    assert not outcome.failed


def test_normalize_keeps_shape_and_dtype_and_leaves_zero_vectors_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    vectors[1, 2] = 0
    units = normalize(vectors)
    assert (units.shape, units.dtype) == (vectors.shape, np.float32)
    lengths = np.linalg.norm(units, axis=-1)
    np.testing.assert_allclose(lengths.ravel()[:-1], 1, rtol=1e-6)
    assert lengths[1, 2] == 0


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("block", [1, 7, 1024])
def test_top_k_equals_a_full_sort(k: int, block: int) -> None:
    random = np.random.default_rng(0)
    queries, candidates = random.normal(size=(20, 4)), random.normal(size=(30, 4))
    rows, scores = top_k(queries, candidates, k, block=block)
    similarities = queries @ candidates.T
    expected = np.argsort(-similarities, axis=1)[:, :k]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(similarities, expected, axis=1))


def test_equal_scores_are_ordered_by_row() -> None:
    rows, _ = top_k(np.ones((1, 2)), np.ones((5, 2)), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_no_queries_give_no_rows_and_no_candidates_are_refused() -> None:
    assert top_k(np.empty((0, 2)), np.ones((5, 2)), 2)[0].shape == (0, 2)
    with pytest.raises(ValueError, match="of 0 candidates"):
        top_k(np.ones((1, 2)), np.empty((0, 2)), 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.ones((1, 2)), np.ones((1, 2)), 0)
