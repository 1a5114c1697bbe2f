"""The relevance cutoff: features, quantiles, fitting and calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.errors import ConfigError
from diptych.search.cutoff import UNCALIBRATED, Cutoff, cutoff_features, cutoff_of, fit_cutoff
from diptych.search.vocabulary import vocabulary

STEPS = tuple(float(at) for at in range(21))  # quantiles 0%, 5% to 100%


def test_the_features_equal_those_worked_out_by_hand() -> None:
    query = np.array([1, 0, 0], np.float32)
    background = np.array([[0.8, 0.6, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # the first is the query's own word
    images = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    # Picture 1: cosines with the background 0.8, 0, 0; picture 2: 0.6, 1, 0. The rivals are the last two.
    first, second = np.std([0.8, 0, 0]), np.std([0.6, 1, 0])
    by_hand = [[1, 0.8, (1 - 0) / first], [0, 0.6, (0 - 1) / second]]
    assert cutoff_features(query, images, background) == pytest.approx(np.array(by_hand), abs=1e-5)


def test_an_images_features_do_not_depend_on_the_rest_of_the_library() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query, background, images = vectors[0], vectors[1:40], vectors[40:]
    alone = cutoff_features(query, images[3:4], background)
    assert cutoff_features(query, images, background)[3] == pytest.approx(alone[0], abs=1e-5)


def test_keeping_a_share_of_queries_takes_that_quantile() -> None:
    cutoff = Cutoff((1.0, 0.0, 0.0), 0.0, STEPS)
    assert cutoff.least_evidence(1.0) == 0
    assert cutoff.least_evidence(0.95) == pytest.approx(1)
    assert cutoff.least_evidence(0.9) == pytest.approx(2)
    assert cutoff.least_evidence(0.925) == pytest.approx(1.5)
    assert cutoff.least_evidence(0.0) == 20


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep"):
        UNCALIBRATED.least_evidence(keep)


def test_a_fit_weights_the_feature_that_separates_present_from_absent() -> None:
    generator = np.random.default_rng(0)

    def queries(shift: float) -> list[np.ndarray]:
        return [generator.normal([0.5, 0.2, shift], [0.1, 0.1, 0.5], (10, 3)) for _ in range(200)]

    present, absent = queries(2.0), queries(-2.0)
    cutoff = fit_cutoff(present, absent)
    assert cutoff.weights[2] > 0
    kept = [cutoff.evidence(each).max() >= cutoff.least_evidence(0.95) for each in present]
    assert np.mean(kept) == pytest.approx(0.95, abs=0.005)
    assert np.mean([cutoff.evidence(each).max() < cutoff.least_evidence(0.95) for each in absent]) > 0.99
    assert list(cutoff.evidence_of_present) == sorted(cutoff.evidence_of_present)


def test_a_cutoff_is_read_back_from_a_models_metadata(tmp_path: Path) -> None:
    made = Cutoff((8.125, 4.5, 1.25), -6.5, STEPS)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "diptych.json").write_text(json.dumps({"kind": "dual", "cutoff": made.to_dict()}))
    assert cutoff_of(str(tmp_path)) == made


@pytest.mark.parametrize("metadata", [None, '{"kind": "dual"}', "not json"])
def test_a_model_without_calibration_uses_the_rival_feature_alone(tmp_path: Path, metadata: str | None) -> None:
    (tmp_path / "modules.json").write_text("[]")
    if metadata is not None:
        (tmp_path / "diptych.json").write_text(metadata)
    assert cutoff_of(str(tmp_path)) is UNCALIBRATED
    assert cutoff_of(str(tmp_path / "gone")) is UNCALIBRATED
    assert UNCALIBRATED.evidence(np.array([[0.9, 0.9, -1.5]])) == pytest.approx([-1.5])


def test_the_vocabulary_has_no_duplicates_and_no_comments() -> None:
    phrases = vocabulary()
    assert len(phrases) > 500
    assert len(set(phrases)) == len(phrases)
    assert all(phrase == phrase.strip() and phrase and not phrase.startswith("#") for phrase in phrases)
