"""The cutoff: which of the nearest pictures show what a text asks for, and whether any does.

The nearest pictures are always there, and their cosines mean nothing to people: one query's best is another's worst.
So each picture is asked back: do other words (the background, `vocabulary.py`) describe it better than this text does?
Three figures of text and picture, weighed by a logistic regression that is fitted for each model, are the picture's
evidence; where it is above the cutoff the picture is a hit. No figure depends on what else is in the library, so the
cutoff holds in large and small libraries, and in one that has a single subject.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.errors import ConfigError, ModelError
from diptych.models.checkpoints import model_directory, read_metadata

KEEP = 0.95
CARD_KEY = "cutoff"
FIGURES = ("cosine", "own_words", "rival")

_OWN_WORDS = 0.01  # of the background, the share nearest to the query, which say the same as it and are no rivals
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Weights of the figures, and how much evidence queries have that do match something.

    `evidence_of_present` holds the 0%, 5% to 100% quantiles of the best hit's evidence over such queries: the cutoff
    that keeps a share of them lies among these. `calibrated` is False where they were measured with another model.
    """

    weights: tuple[float, ...]
    bias: float
    evidence_of_present: tuple[float, ...]
    calibrated: bool = True

    def evidence(self, figures: np.ndarray) -> np.ndarray:
        """How much speaks for each picture, as log-odds: (pictures, 3) to (pictures,)."""
        return figures @ np.asarray(self.weights) + self.bias

    def least_evidence(self, keep: float = KEEP) -> float:
        """The evidence that a hit needs, so that a share `keep` in [0, 1] of the queries with a match keep one.

        Raises:
            ConfigError: `keep` is out of range.
        """
        if not 0 <= keep <= 1:
            raise ConfigError(f"keep is {keep}; it is a share of queries between 0 and 1, usually {KEEP}")
        return float(np.interp((1 - keep) * _STEPS, np.arange(_STEPS + 1), self.evidence_of_present))

    def as_dict(self) -> dict[str, Any]:
        """What stands under `cutoff` in a model's `diptych.json`."""
        return {
            "weights": {name: round(weight, 4) for name, weight in zip(FIGURES, self.weights, strict=True)},
            "bias": round(self.bias, 4),
            "evidence_of_present": [round(evidence, 4) for evidence in self.evidence_of_present],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Cutoff:
        weights = tuple(float(content["weights"][name]) for name in FIGURES)
        return cls(weights, float(content["bias"]), tuple(map(float, content["evidence_of_present"])))


def figures(query: np.ndarray, pictures: np.ndarray, background: np.ndarray) -> np.ndarray:
    """What speaks for each picture: (pictures, 3) of a text (dim,), pictures (pictures, dim), background (words, dim).

    All vectors have unit length. The hundredth of the background that is nearest to the text says much the same: these
    are its own words, the others are its rivals. The columns are the cosine of text and picture; the cosine of the own
    words' mean and the picture; and by how much the text's cosine is above that of the best rival, in standard
    deviations of the background's cosines with that picture.
    """
    own = max(1, round(_OWN_WORDS * len(background)))
    order = np.argsort(-(background @ query), kind="stable")
    own_words = background[order[:own]].mean(axis=0)  # (dim,)
    cosine, others = pictures @ query, pictures @ background.T  # (pictures,), (pictures, words)
    above_rival = cosine - others[:, order[own:]].max(axis=1)
    spread = np.maximum(others.std(axis=1), 1e-6)
    return np.stack([cosine, pictures @ own_words / np.linalg.norm(own_words), above_rival / spread], axis=1)


def fit_cutoff(present: Sequence[np.ndarray], absent: Sequence[np.ndarray]) -> Cutoff:
    """Weigh the figures so that queries with a match are told from those without.

    Each item holds the figures of one query's nearest pictures, best first, (pictures, 3). The regression is fitted on
    the mean of the best three; a query's own evidence is then that of its best hit, since one match is enough.
    """
    from sklearn.linear_model import LogisticRegression

    rows = np.stack([each[:3].mean(axis=0) for each in (*present, *absent)]).astype(np.float64)
    labels = np.repeat([1, 0], [len(present), len(absent)])
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    model = LogisticRegression(class_weight="balanced").fit((rows - mean) / spread, labels)
    weights = model.coef_[0] / spread
    bias = float(model.intercept_[0] - weights @ mean)
    best = [float((each @ weights + bias).max()) for each in present]
    quantiles = np.quantile(best, np.linspace(0, 1, _STEPS + 1))
    return Cutoff(tuple(map(float, weights)), bias, tuple(map(float, quantiles)))


# The rival alone, whose unit is the same in every model; benchmarks/search_cutoff.py prints the quantiles.
_RIVAL_ALONE = (
    *(-0.965, -0.211, 0.144, 0.316, 0.426, 0.545, 0.689, 0.78, 0.892, 0.969),
    *(1.06, 1.153, 1.235, 1.336, 1.411, 1.552, 1.665, 1.837, 2.019, 2.172, 3.48),
)
UNCALIBRATED = Cutoff((0.0, 0.0, 1.0), 0.0, _RIVAL_ALONE, calibrated=False)


@functools.lru_cache(maxsize=8)
def cutoff_of(model_name: str | None) -> Cutoff:
    """The calibration on a model's card (`diptych.json`), or `UNCALIBRATED`; looked up once in a process.

    A model in memory (None) has no card.
    """
    if model_name is None:
        return UNCALIBRATED
    try:
        card = read_metadata(model_directory(model_name))
    except ModelError:  # a model in memory, a hub's checkpoint without a card
        return UNCALIBRATED
    return Cutoff.from_dict(card[CARD_KEY]) if CARD_KEY in card else UNCALIBRATED
