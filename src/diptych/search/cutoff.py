"""Relevance cutoff: which of the nearest images match a text query, and whether any does.

There are always nearest images, and a cosine has no fixed meaning: one query's best is another's worst. So each image
is compared with other texts as well: does any phrase of a background vocabulary (`vocabulary.py`) describe it better
than the query does? Three features of text and image, weighted by a logistic regression fitted for each model, give the
image's evidence; an image whose evidence is above the cutoff is a hit. No feature depends on the rest of the library,
so the cutoff holds in small and large libraries, and in one that has a single subject.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.errors import ConfigError, ModelError
from diptych.models.checkpoints import model_directory, read_metadata

KEEP = 0.95
METADATA_KEY = "cutoff"
FEATURES = ("cosine", "own_words", "rival")

_OWN_WORDS = 0.01  # share of the background that is nearest to the query: near-synonyms, which are not rivals
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Weights of the features, and the distribution of evidence over queries that have a match.

    `evidence_of_present` holds the 0%, 5% to 100% quantiles of the best hit's evidence over such queries; the cutoff
    that keeps a share of them is interpolated. `calibrated` is False if they were measured with another model.
    """

    weights: tuple[float, ...]
    bias: float
    evidence_of_present: tuple[float, ...]
    calibrated: bool = True

    def evidence(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """The log-odds that each image matches: (images, 3) to (images,)."""
        return features @ np.asarray(self.weights) + self.bias

    def least_evidence(self, keep: float = KEEP) -> float:
        """The evidence that a hit needs, so that a share `keep` in [0, 1] of the queries with a match keep one.

        Raises:
            ConfigError: `keep` is out of range.
        """
        if not 0 <= keep <= 1:
            raise ConfigError(f"keep is {keep}; it is a share of queries between 0 and 1, usually {KEEP}")
        return float(np.interp((1 - keep) * _STEPS, np.arange(_STEPS + 1), self.evidence_of_present))

    def to_dict(self) -> dict[str, Any]:
        """The value of `cutoff` in a model's metadata (`diptych.json`)."""
        return {
            "weights": {name: round(weight, 4) for name, weight in zip(FEATURES, self.weights, strict=True)},
            "bias": round(self.bias, 4),
            "evidence_of_present": [round(evidence, 4) for evidence in self.evidence_of_present],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Cutoff:
        """The cutoff that `to_dict` wrote."""
        weights = tuple(float(content["weights"][name]) for name in FEATURES)
        return cls(weights, float(content["bias"]), tuple(map(float, content["evidence_of_present"])))


def cutoff_features(
    query: NDArray[np.floating], images: NDArray[np.floating], background: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The features of each image for a text query: (images, 3).

    Args are unit embeddings: `query` (dim,), `images` (images, dim) and `background` phrases (phrases, dim). The
    hundredth of the background nearest to the query are its own words, the others its rivals. The features are the
    cosine of query and image; the cosine of the own words' mean and the image; and how far the query's cosine is above
    the best rival's, in standard deviations of the background's cosines with that image.
    """
    own = max(1, round(_OWN_WORDS * len(background)))
    order = np.argsort(-(background @ query), kind="stable")
    own_words = background[order[:own]].mean(axis=0)  # (dim,)
    cosine, others = images @ query, images @ background.T  # (images,), (images, phrases)
    above_rival = cosine - others[:, order[own:]].max(axis=1)
    spread = np.maximum(others.std(axis=1), 1e-6)
    return np.stack([cosine, images @ own_words / np.linalg.norm(own_words), above_rival / spread], axis=1)


def fit_cutoff(present: Sequence[NDArray[np.floating]], absent: Sequence[NDArray[np.floating]]) -> Cutoff:
    """Fit the feature weights that separate queries with a match from those without, by logistic regression.

    Each item holds the features of one query's nearest images, best first, (images, 3). The regression is fitted on
    the mean of the best three; a query's own evidence is then that of its best hit, since one match is enough.
    """
    from sklearn.linear_model import LogisticRegression

    rows = np.stack([features[:3].mean(axis=0) for features in (*present, *absent)]).astype(np.float64)  # (queries, 3)
    labels = np.repeat([1, 0], [len(present), len(absent)])
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    model = LogisticRegression(class_weight="balanced").fit((rows - mean) / spread, labels)
    weights = model.coef_[0] / spread
    bias = float(model.intercept_[0] - weights @ mean)
    best = [float((features @ weights + bias).max()) for features in present]
    quantiles = np.quantile(best, np.linspace(0, 1, _STEPS + 1))
    return Cutoff(tuple(map(float, weights)), bias, tuple(map(float, quantiles)))


# Quantiles of the rival feature alone, whose unit is the same in every model; from benchmarks/search_cutoff.py.
_RIVAL_ALONE = (
    *(-0.965, -0.211, 0.144, 0.316, 0.426, 0.545, 0.689, 0.78, 0.892, 0.969),
    *(1.06, 1.153, 1.235, 1.336, 1.411, 1.552, 1.665, 1.837, 2.019, 2.172, 3.48),
)
UNCALIBRATED = Cutoff((0.0, 0.0, 1.0), 0.0, _RIVAL_ALONE, calibrated=False)


@functools.lru_cache(maxsize=8)
def cutoff_of(model_name: str | None) -> Cutoff:
    """The cutoff in a model's metadata, or `UNCALIBRATED` if it has none; read once in a process.

    A model in memory (None) has no metadata.
    """
    if model_name is None:
        return UNCALIBRATED
    try:
        metadata = read_metadata(model_directory(model_name))
    except ModelError:  # a model in memory, or a checkpoint of the hub without metadata
        return UNCALIBRATED
    return Cutoff.from_dict(metadata[METADATA_KEY]) if METADATA_KEY in metadata else UNCALIBRATED
