from __future__ import annotations

import doctest

import numpy as np
import pytest

from diptych.errors import DataError
from diptych.evaluation import probe
from diptych.evaluation.probe import Adapter, ZeroShot, cross_validated, few_shots, fit_adapter, fit_probe


def test_the_worked_examples_hold() -> None:
    outcome = doctest.testmod(probe)
    assert outcome.attempted
    assert not outcome.failed


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four classes of 30 vectors each, and names that point away from two of them."""
    random = np.random.default_rng(0)
    centres = unit(random.normal(size=(4, 16)))
    labels = np.repeat(np.arange(4), 30)
    vectors = unit(centres[labels] + 0.25 * random.normal(size=(120, 16)))
    names = unit(centres + np.array([[0], [0], [1], [1]]) * random.normal(size=(4, 16)))
    return vectors, labels, names


def accuracy(found: np.ndarray, labels: np.ndarray) -> float:
    return float((found.argmax(axis=1) == labels).mean())


def test_zero_shot_is_the_softmax_of_scaled_cosines() -> None:
    found = ZeroShot(np.eye(2), 2.0)(np.array([[1.0, 0.0]]))
    assert found[0, 0] == pytest.approx(np.exp(2) / (np.exp(2) + 1))


def test_the_adapter_is_its_formula() -> None:
    names, examples = np.eye(3), unit(np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 1]]))
    shares = np.eye(3)
    adapter = Adapter(ZeroShot(names, 10.0), examples, shares, alpha=2.0, beta=5.5)
    x = unit(np.array([[1.0, 2, 3]]))
    logits = 10 * x @ names.T + 2 * np.exp(-5.5 + 5.5 * x @ examples.T) @ shares  # as in the authors' code
    np.testing.assert_allclose(adapter(x), np.exp(logits) / np.exp(logits).sum())


def test_examples_help_where_names_mislead(clouds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    vectors, labels, names = clouds
    rows = few_shots(labels, 4)
    others = np.setdiff1d(np.arange(len(labels)), rows)
    by_name = accuracy(ZeroShot(names, 20.0)(vectors[others]), labels[others])
    adapter = fit_adapter(vectors[rows], labels[rows], names, 20.0)
    linear = fit_probe(vectors[rows], labels[rows], 4)
    assert accuracy(adapter(vectors[others]), labels[others]) > by_name
    assert accuracy(linear(vectors[others]), labels[others]) > by_name
    for classifier in (adapter, linear):
        np.testing.assert_allclose(classifier(vectors).sum(axis=1), 1)


def test_an_adapter_fitted_block_by_block_is_the_same(
    clouds: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, labels, names = clouds
    whole = fit_adapter(vectors, labels, names, 20.0)
    monkeypatch.setattr(probe, "_BLOCK", 7)
    again = fit_adapter(vectors, labels, names, 20.0)
    assert (again.alpha, again.beta) == (whole.alpha, whole.beta)
    np.testing.assert_allclose(again(vectors), whole(vectors))
    assert again(vectors[:0]).shape == (0, len(names))


def test_a_class_does_not_win_by_having_more_examples() -> None:
    names = np.eye(4)[:2]
    vectors = np.eye(4)[[2] * 9 + [3]]
    adapter = fit_adapter(vectors, np.array([0] * 9 + [1]), names, 1.0)
    np.testing.assert_allclose(adapter.shares.sum(axis=0), [5, 5])


def test_examples_of_equal_number_count_as_in_the_paper(clouds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    vectors, labels, names = clouds
    np.testing.assert_array_equal(fit_adapter(vectors, labels, names, 1.0).shares, np.eye(4)[labels])


def test_a_class_without_an_example_has_no_chance_by_the_probe() -> None:
    linear = fit_probe(np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 2, 2]), 3)
    found = linear(np.eye(3))
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_no_picture_is_judged_by_what_has_seen_it() -> None:
    """Vectors that say nothing of the labels: whoever had seen them would be right, and so is nobody."""
    random = np.random.default_rng(0)
    vectors, labels = unit(random.normal(size=(60, 64))), random.integers(2, size=60)

    def memory(some: np.ndarray, of: np.ndarray):
        return lambda asked: np.eye(2)[of[(asked @ some.T).argmax(axis=1)]]

    assert accuracy(memory(vectors, labels)(vectors), labels) == 1.0
    assert accuracy(cross_validated(memory, vectors, labels), labels) < 0.75


def test_shots_are_as_many_of_each_class_as_there_are() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2] * 5)
    rows = few_shots(labels, 3)
    assert np.bincount(labels[rows]).tolist() == [3, 2, 3]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == few_shots(labels, 3).tolist()


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(DataError, match="of one class"):
        fit_probe(np.eye(2), np.array([0, 0]), 2)
    with pytest.raises(DataError, match="at least one"):
        fit_adapter(np.empty((0, 2)), np.empty(0, int), np.eye(2), 1.0)
    with pytest.raises(DataError, match="single picture"):
        cross_validated(lambda some, of: ZeroShot(np.eye(2), 1.0), np.eye(2), np.array([0, 1]))


def test_a_probe_of_one_example_a_class_is_fitted_all_the_same() -> None:
    assert fit_probe(np.eye(2), np.array([0, 1]), 2).strength == 10.0
