"""The validation of a matcher: every head is measured and calibrated on the same held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diptych.calibration import EVIDENCE, Calibration, fit_calibration
from diptych.dual import DualEncoder
from diptych.errors import ConfigError
from diptych.hubness import Banks
from diptych.match_heads import CosineHead
from diptych.matcher import Encoded, Matcher
from diptych.metrics.matching import matching_metrics
from diptych.negatives import judged_pairs
from diptych.recipes.match import MatchRecipe
from diptych.recipes.match_data import Part
from diptych.rerank import nearest, reranked_ranks

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
        judged = judged_pairs(part.pairs, part.image_vectors, part.text_vectors, **hard, seed=recipe.seed)
        mixture = judged.sets["mixture"]
        self.rows, self.texts, self.labels = judged.rows[mixture], judged.texts[mixture], judged.labels[mixture]
        self.negatives = {
            "random": 1 - recipe.hard_mixture,
            "hard": recipe.hard_mixture,
            "hard_share": recipe.hard_share,
        }

    def matcher(
        self, head: Any, name: str = "", settings: dict[str, Any] | None = None
    ) -> tuple[Matcher, Encoded, Encoded]:
        """The head with a calibration fitted to the validation pairs, and their pictures and texts encoded by it."""
        is_cosine = isinstance(head, CosineHead)
        banks = None if is_cosine else self.banks
        plain = Matcher(self.encoder, head, Calibration({"head": 1.0}, 0.0), name=name, settings=settings, banks=banks)
        images = _encoded(plain, "image", len(self.part.pairs), self.part.images)
        texts = _encoded(plain, "text", len(self.part.texts), self.part.captions)
        plain.calibration = fit_calibration(
            plain.evidence(images, texts, self.rows, self.texts),
            self.labels,
            use=("cosine",) if is_cosine else EVIDENCE,
            candidates=None if self.part.labels is not None else nearest(plain, images, texts, self.part.rows),
            prior=self.recipe.prior,
            negatives=self.negatives,
        )
        return plain, images, texts

    def __call__(self, head: Any) -> dict[str, float]:
        """AUC, AP, Brier and ECE of the calibrated head and, for captions, text-to-image recall after re-ranking; in %.

        `score`, by which the best epoch is chosen, is the mean reciprocal rank after re-ranking; the AUC where the
        pairs are labelled. It looks at the order alone, so that a calibration cannot flatter it.
        """
        matcher, images, texts = self.matcher(head)
        probabilities = matcher.probabilities(images, texts, self.rows, self.texts)
        scores = matching_metrics(probabilities, self.labels)
        told = {name: 100 * getattr(scores, name) for name in ("auc", "average_precision", "accuracy", "brier", "ece")}
        if self.part.labels is not None:
            return told | {"score": told["auc"]}
        found = reranked_ranks(matcher, images, texts, self.part.rows)
        mrr = 100 * float(np.mean(1 / found))
        return told | {"rerank_r@1": 100 * float(np.mean(found == 1)), "rerank_mrr": mrr, "score": mrr}


def _encoded(matcher: Matcher, modality: str, count: int, take: Callable[[np.ndarray], Any]) -> Encoded:
    blocks = (np.arange(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
    return Encoded.join([matcher.encode_states(modality, take(block).to(matcher.encoder.device)) for block in blocks])
