"""The validation of a matcher: every head is measured and calibrated on the same held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diptych.errors import ConfigError
from diptych.evaluation.metrics.matching import matching_metrics
from diptych.matching.calibration import EVIDENCE, Calibration, fit_calibration
from diptych.matching.heads import CosineHead
from diptych.matching.hubness import Banks
from diptych.matching.matcher import Encoded, Matcher
from diptych.matching.negatives import make_labelled_pairs
from diptych.matching.rerank import Candidates, candidates
from diptych.models.dual_encoder import DualEncoder
from diptych.training.match.config import MatchRecipe
from diptych.training.match.data import Part

_BLOCK = 256  # pictures or texts encoded at once


class Check:
    """The validation part as every head is measured and calibrated on it.

    Its pairs are each caption with its own picture, with a random negative and with a hard one; or the labelled pairs.
    """

    def __init__(self, recipe: MatchRecipe, encoder: DualEncoder, part: Part, banks: Banks) -> None:
        self.recipe, self.encoder, self.part, self.banks = recipe, encoder, part, banks
        self.negatives: dict[str, float] = {"labelled": 1.0}
        if part.labels is not None:
            self.rows, self.texts, self.labels = part.rows, np.arange(len(part.texts)), np.asarray(part.labels, bool)
            return
        if len(part.pairs) < 2:
            raise ConfigError("one validation picture has no negative; raise val_fraction")
        hard = {"hard_share": recipe.hard_share, "hard_mixture": recipe.hard_mixture}
        judged = make_labelled_pairs(part.pairs, part.image_vectors, part.text_vectors, **hard, seed=recipe.seed)
        mixture = judged.sets["mixture"]
        self.rows, self.texts, self.labels = judged.rows[mixture], judged.texts[mixture], judged.labels[mixture]
        self.negatives = {
            "random": 1 - recipe.hard_mixture,
            "hard": recipe.hard_mixture,
            "hard_share": recipe.hard_share,
        }

    def matcher(self, head: Any, name: str = "", settings: dict[str, Any] | None = None) -> Matcher:
        """The head with a calibration that is fitted to the validation pairs."""
        return self._fitted(head, name, settings)[0]

    def __call__(self, head: Any) -> dict[str, float]:
        """AUC, AP, Brier and ECE of the calibrated head and, for captions, text-to-image recall after re-ranking; in %.

        `score`, by which the best epoch is chosen, is the mean reciprocal rank after re-ranking; the AUC where the
        pairs are labelled. It looks at the order alone, so that a calibration cannot flatter it.
        """
        matcher, evidence, found = self._fitted(head)
        scores = matching_metrics(matcher.calibration(evidence), self.labels)
        told = {name: 100 * getattr(scores, name) for name in ("auc", "average_precision", "accuracy", "brier", "ece")}
        if found is None:
            return told | {"score": told["auc"]}
        ranks = found.ranks(matcher.calibration)
        mrr = 100 * float(np.mean(1 / ranks))
        return told | {"rerank_r@1": 100 * float(np.mean(ranks == 1)), "rerank_mrr": mrr, "score": mrr}

    def _fitted(
        self, head: Any, name: str = "", settings: dict[str, Any] | None = None
    ) -> tuple[Matcher, np.ndarray, Candidates | None]:
        """The calibrated matcher, the evidence of the validation pairs, and that of each caption's candidates."""
        is_cosine = isinstance(head, CosineHead)
        banks = None if is_cosine else self.banks
        as_it_is = Calibration({"head": 1.0}, 0.0)
        matcher = Matcher(self.encoder, head, as_it_is, name=name, settings=settings, banks=banks)
        images = _encoded(matcher, "image", len(self.part.pairs), self.part.images)
        texts = _encoded(matcher, "text", len(self.part.texts), self.part.captions)
        evidence = matcher.evidence(images, texts, self.rows, self.texts)
        found = candidates(matcher, images, texts, self.part.rows) if self.part.labels is None else None
        matcher.calibration = fit_calibration(
            evidence,
            self.labels,
            use=("cosine",) if is_cosine else EVIDENCE,
            candidates=(found.evidence, found.own) if found else None,
            prior=self.recipe.prior,
            negatives=self.negatives,
        )
        return matcher, evidence, found


def _encoded(matcher: Matcher, modality: str, count: int, take: Callable[[np.ndarray], Any]) -> Encoded:
    blocks = (np.arange(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
    return Encoded.join([matcher.encode_states(modality, take(block).to(matcher.encoder.device)) for block in blocks])
