"""Caption metrics against references, as coco-caption computes them: BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.evaluation.metrics.bleu import bleu
from diptych.evaluation.metrics.cider import CiderD
from diptych.evaluation.metrics.meteor import meteor, meteor_missing
from diptych.evaluation.metrics.ptb import tokenize
from diptych.evaluation.metrics.rouge import rouge_l
from diptych.evaluation.metrics.spice import spice, spice_missing

Id = TypeVar("Id", bound=Hashable)
Words = list[list[str]]

METRICS = ("bleu", "meteor", "rouge_l", "cider_d", "spice")
NAMES = {  # key of a score -> display name
    **{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{"meteor": "METEOR", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "spice": "SPICE"},
    **{"clipscore": "CLIPScore", "refclipscore": "RefCLIPScore"},
}
CORPUS_LEVEL = frozenset({"bleu1", "bleu2", "bleu3", "bleu4", "meteor"})
"""Keys of the scores whose corpus value is not the mean over images."""
_MISSING = {"meteor": meteor_missing, "spice": spice_missing}


@dataclass(frozen=True)
class CaptionScores(Generic[Id]):
    """Scores of one caption for each image.

    Attributes:
        corpus: scores by key: `bleu1` to `bleu4`, `meteor`, `rouge_l` and `spice` in [0, 1], `cider_d` in [0, 10]. They
            are the means over images, except BLEU and METEOR.
        per_image: the same scores of each image, by its id.
        tokenizer: key of `metrics.ptb.TOKENIZERS`.
        missing: metric to the reason why it was not computed.
    """

    corpus: dict[str, float]
    per_image: dict[Id, dict[str, float]]
    tokenizer: str
    missing: dict[str, str] = field(default_factory=dict)


def score_captions(
    candidates: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    *,
    tokenizer: str = "auto",
    metrics: Sequence[str] | None = None,
) -> CaptionScores[Id]:
    """Score one caption for each image against all references of the image.

    Args:
        candidates: image id to caption.
        references: the same ids to reference captions, at least one each.
        tokenizer: `ptb`, `fallback`, or `auto` (see `metrics.ptb.tokenize`). Scores of different tokenizers differ.
        metrics: a selection of `METRICS`; by default all that this machine can compute (METEOR and SPICE need Java).

    Raises:
        DataError: ids are missing or unexpected, or an image has no reference.
        ConfigError: there is no such metric or tokenizer.
        MissingExtra: a metric or tokenizer requested by name is not installed.

    The first reference has the same words as the caption:

    >>> scores = score_captions({1: "Two dogs."}, {1: ["Two dogs!", "A cat"]}, metrics=["rouge_l"])
    >>> scores.corpus
    {'rouge_l': 1.0}
    """
    check_ids(candidates, references)
    available, missing = _available(metrics)
    ids = list(candidates)
    counts = [len(references[image_id]) for image_id in ids]
    texts = [*candidates.values(), *(text for image_id in ids for text in references[image_id])]
    words, name = tokenize(texts, tokenizer)
    ends = len(ids) + np.cumsum(counts)
    grouped = [words[end - count : end] for end, count in zip(ends, counts, strict=True)]
    corpus: dict[str, float] = {}
    arrays: dict[str, NDArray[np.float64]] = {}
    for metric in available:
        of_corpus, of_images = _MEASURES[metric](words[: len(ids)], grouped)
        corpus |= of_corpus
        arrays |= of_images
    per_image = {
        image_id: {key: float(values[row]) for key, values in arrays.items()} for row, image_id in enumerate(ids)
    }
    return CaptionScores(corpus, per_image, name, missing)


def check_ids(candidates: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> None:
    """Check that captions and references have the same ids.

    Raises:
        DataError: ids are missing or unexpected, an image has no reference, or there is no caption.
    """
    if not candidates:
        raise DataError("there is no caption to score; give one for each image")
    absent = [image_id for image_id in references if image_id not in candidates]
    extra = [image_id for image_id in candidates if image_id not in references]
    empty = [image_id for image_id, texts in references.items() if not texts]
    strings = [image_id for image_id, texts in references.items() if isinstance(texts, str)]
    faults = (
        (absent, "have references but no caption"),
        (extra, "have a caption but no references"),
        (empty, "have an empty list of references"),
        (strings, "have a string instead of a list of references"),
    )
    messages = [f"{len(ids):,} images {fault} ({_some(ids)})" for ids, fault in faults if ids]
    if messages:
        raise DataError(f"{'; '.join(messages)}. Give each image one caption and its references under the same id")


def _some(ids: Sequence[Hashable]) -> str:
    return ", ".join(f"'{image_id}'" for image_id in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _available(metrics: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and the reasons why others are not."""
    for metric in metrics or ():
        if metric not in METRICS:
            raise ConfigError(f"there is no caption metric '{metric}'; {did_you_mean(metric, METRICS)}")
    if metrics is not None:
        return list(dict.fromkeys(metrics)), {}
    missing = {metric: reason for metric, check in _MISSING.items() if (reason := check())}
    return [metric for metric in METRICS if metric not in missing], missing


Measured = tuple[dict[str, float], dict[str, NDArray[np.float64]]]  # of the corpus, and (images,) of each


def _bleu(candidates: Words, references: list[Words]) -> Measured:
    corpus, per_image = bleu(candidates, references)
    keys = [f"bleu{n}" for n in range(1, 5)]
    return dict(zip(keys, corpus.tolist(), strict=True)), dict(zip(keys, per_image.T, strict=True))


def _meteor(candidates: Words, references: list[Words]) -> Measured:
    corpus, per_image = meteor(candidates, references)
    return {"meteor": corpus}, {"meteor": per_image}


def _mean_of(key: str, per_image: NDArray[np.float64]) -> Measured:
    return {key: float(per_image.mean())}, {key: per_image}


_MEASURES: dict[str, Callable[[Words, list[Words]], Measured]] = {
    "bleu": _bleu,
    "meteor": _meteor,
    "rouge_l": lambda candidates, references: _mean_of("rouge_l", rouge_l(candidates, references)),
    "cider_d": lambda candidates, references: _mean_of("cider_d", CiderD(references)(candidates)),
    "spice": lambda candidates, references: _mean_of("spice", spice(candidates, references)),
}
