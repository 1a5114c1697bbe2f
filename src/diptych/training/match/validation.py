"""Validation of a matcher: every head is calibrated and measured on the same held-out pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diptych.evaluation.metrics.matching import matching_metrics
from diptych.matching.calibration import EVIDENCE, Calibration, fit_calibration
from diptych.matching.heads import CosineHead
from diptych.matching.hubness import Banks
from diptych.matching.matcher import Encoded, Matcher
from diptych.matching.negatives import make_labelled_pairs
from diptych.matching.rerank import Candidates, candidates
from diptych.models.checkpoints import HeadSettings
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates
from diptych.training.match.config import MatchRecipe
from diptych.training.match.data import EncodedPairs

_BLOCK = 256  # images or texts encoded at once


class MatchValidator:
    """Calibrates and measures the heads of a matcher on the validation split.

    The pairs are each caption with its own image, with a random negative and with a hard negative; or, for labelled
    data, the labelled pairs.

    Args:
        recipe: the settings of negatives and calibration.
        encoder: the dual encoder.
        data: the validation split; at least two images, unless its pairs are labelled.
        banks: sample embeddings of the training split, against hubness.
    """

    def __init__(self, recipe: MatchRecipe, encoder: DualEncoder, data: EncodedPairs, banks: Banks) -> None:
        self.recipe, self.encoder, self.data, self.banks = recipe, encoder, data, banks
        self.negatives: dict[str, float] = {"labelled": 1.0}
        if data.labels is not None:
            self.rows, self.texts, self.labels = data.rows, np.arange(len(data.texts)), np.asarray(data.labels, bool)
            return
        hard = {"hard_share": recipe.hard_share, "hard_mixture": recipe.hard_mixture}
        pairs = make_labelled_pairs(data.pairs, data.images.embeddings, data.text_embeddings, **hard, seed=recipe.seed)
        mixture = pairs.sets["mixture"]
        self.rows, self.texts, self.labels = pairs.rows[mixture], pairs.texts[mixture], pairs.labels[mixture]
        self.negatives = {
            "random": 1 - recipe.hard_mixture,
            "hard": recipe.hard_mixture,
            "hard_share": recipe.hard_share,
        }

    def matcher(self, head: nn.Module, name: str = "", settings: HeadSettings | None = None) -> Matcher:
        """A matcher with this head, calibrated on the validation pairs."""
        return self._calibrated(head, name, settings)[0]

    def __call__(self, head: nn.Module) -> dict[str, float]:
        """The validation scores of a head.

        Returns:
            AUC, AP, accuracy, Brier score and ECE of the calibrated head in percent and, for captions, `rerank_r@1` and
            `rerank_mrr`, the text-to-image recall and mean reciprocal rank after re-ranking. `score`, which selects the
            best epoch, is the mean reciprocal rank, or the AUC for labelled pairs; both depend on the order of the
            logits alone, so that the calibration has no influence.
        """
        matcher, evidence, reranked = self._calibrated(head)
        metrics = matching_metrics(matcher.calibration(evidence), self.labels)
        names = ("auc", "average_precision", "accuracy", "brier", "ece")
        scores = {name: 100 * getattr(metrics, name) for name in names}
        if reranked is None:
            return scores | {"score": scores["auc"]}
        ranks = reranked.ranks(matcher.calibration)
        mrr = 100 * float(np.mean(1 / ranks))
        return scores | {"rerank_r@1": 100 * float(np.mean(ranks == 1)), "rerank_mrr": mrr, "score": mrr}

    def _calibrated(
        self, head: nn.Module, name: str = "", settings: HeadSettings | None = None
    ) -> tuple[Matcher, NDArray[np.floating], Candidates | None]:
        """The calibrated matcher, the evidence of the validation pairs, and the candidates of each caption."""
        is_cosine = isinstance(head, CosineHead)
        banks = None if is_cosine else self.banks
        uncalibrated = Calibration({"head": 1.0}, 0.0)
        matcher = Matcher(self.encoder, head, uncalibrated, name=name, settings=settings, banks=banks)
        images = _encoded(matcher, "image", len(self.data.pairs), self.data.images.take)
        texts = _encoded(matcher, "text", len(self.data.texts), self.data.take_texts)
        evidence = matcher.evidence(images, texts, self.rows, self.texts)
        reranked = candidates(matcher, images, texts, self.data.rows) if self.data.labels is None else None
        matcher.calibration = fit_calibration(
            evidence,
            self.labels,
            use=("cosine",) if is_cosine else EVIDENCE,
            candidates=(reranked.evidence, reranked.own) if reranked else None,
            prior=self.recipe.prior,
            negatives=self.negatives,
        )
        return matcher, evidence, reranked


def _encoded(matcher: Matcher, modality: str, count: int, take: Callable[[NDArray[np.int64]], HiddenStates]) -> Encoded:
    blocks = (np.arange(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
    return Encoded.join([matcher.encode_states(modality, take(block).to(matcher.encoder.device)) for block in blocks])
