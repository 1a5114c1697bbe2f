"""Scores of captions against the references of their pictures, as coco-caption computes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

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
NAMES = {  # a key of the scores -> its name in a report
    **{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{"meteor": "METEOR", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "spice": "SPICE"},
    **{"clipscore": "CLIPScore", "refclipscore": "RefCLIPScore"},
}
_MISSING = {"meteor": meteor_missing, "spice": spice_missing}


@dataclass(frozen=True)
class CaptionScores(Generic[Id]):
    """Scores of one caption a picture.

    `corpus` and each entry of `per_picture` map `bleu1` to `bleu4`, `meteor`, `rouge_l` and `spice` (in [0, 1]) and
    `cider_d` (in [0, 10]) to numbers. Those of the corpus are the means of the pictures, but for BLEU and METEOR.
    `tokenizer` is the name in `diptych.evaluation.metrics.ptb.TOKENIZERS`; `missing` says why a score is not there.
    """

    corpus: dict[str, float]
    per_picture: dict[Id, dict[str, float]]
    tokenizer: str
    missing: dict[str, str] = field(default_factory=dict)


def score_captions(
    candidates: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    *,
    tokenizer: str = "auto",
    metrics: Sequence[str] | None = None,
) -> CaptionScores[Id]:
    """Score one caption a picture against all references of the picture.

    Args:
        candidates: a caption for each picture's id.
        references: of the same ids, the texts that describe the picture, at least one.
        tokenizer: `ptb`, `fallback`, or `auto` (see `metrics.ptb.tokenize`). Scores of different tokenizers differ.
        metrics: of `METRICS`; when not given, all that can be computed here (METEOR and SPICE need Java).

    Raises:
        DataError: ids are missing or unexpected, or a picture has no reference.
        ConfigError: there is no such metric or tokenizer.
        MissingExtra: a metric or a tokenizer that was asked for by name is not installed.

    >>> scores = score_captions({1: "Two dogs."}, {1: ["Two dogs!", "A cat"]}, metrics=["rouge_l"])
    >>> scores.corpus
    {'rouge_l': 1.0}
    """
    check_ids(candidates, references)
    wanted, missing = _available(metrics)
    ids = list(candidates)
    counts = [len(references[each]) for each in ids]
    texts = [*(candidates[each] for each in ids), *(text for each in ids for text in references[each])]
    words, name = tokenize(texts, tokenizer)
    ends = len(ids) + np.cumsum(counts)
    grouped = [words[end - count : end] for end, count in zip(ends, counts, strict=True)]
    corpus: dict[str, float] = {}
    rows: dict[str, np.ndarray] = {}
    for metric in wanted:
        whole, each = _MEASURES[metric](words[: len(ids)], grouped)
        corpus |= whole
        rows |= each
    told = {each: {key: float(values[at]) for key, values in rows.items()} for at, each in enumerate(ids)}
    return CaptionScores(corpus, told, name, missing)


def check_ids(candidates: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> None:
    """Refuse captions and references of different pictures.

    Raises:
        DataError: ids are missing or unexpected, a picture has no reference, or there is nothing at all.
    """
    if not candidates:
        raise DataError("there is no caption to score; give one for each picture")
    absent = [each for each in references if each not in candidates]
    extra = [each for each in candidates if each not in references]
    bare = [each for each in references if not references[each]]
    strings = [each for each in references if isinstance(references[each], str)]
    faults = (
        (absent, "have references but no caption"),
        (extra, "have a caption but no references"),
        (bare, "have an empty list of references"),
        (strings, "have a text in place of a list of references"),
    )
    told = [f"{len(ids):,} pictures {fault} ({_some(ids)})" for ids, fault in faults if ids]
    if told:
        raise DataError(f"{'; '.join(told)}. Give each picture one caption and its references, under the same id")


def _some(ids: Sequence[Hashable]) -> str:
    return ", ".join(f"'{each}'" for each in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _available(metrics: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and why others are not."""
    for metric in metrics or ():
        if metric not in METRICS:
            raise ConfigError(f"there is no caption metric '{metric}'; {did_you_mean(metric, METRICS)}")
    if metrics is not None:
        return list(dict.fromkeys(metrics)), {}
    missing = {metric: why for metric, look in _MISSING.items() if (why := look())}
    return [metric for metric in METRICS if metric not in missing], missing


Measured = tuple[dict[str, float], dict[str, np.ndarray]]


def _bleu(candidates: Words, references: list[Words]) -> Measured:
    whole, each = bleu(candidates, references)
    keys = [f"bleu{n}" for n in range(1, 5)]
    return dict(zip(keys, whole.tolist(), strict=True)), dict(zip(keys, each.T, strict=True))


def _meteor(candidates: Words, references: list[Words]) -> Measured:
    whole, each = meteor(candidates, references)
    return {"meteor": whole}, {"meteor": each}


def _mean_of(key: str, each: np.ndarray) -> Measured:
    return {key: float(each.mean())}, {key: each}


_MEASURES: dict[str, Callable[[Words, list[Words]], Measured]] = {
    "bleu": _bleu,
    "meteor": _meteor,
    "rouge_l": lambda candidates, references: _mean_of("rouge_l", rouge_l(candidates, references)),
    "cider_d": lambda candidates, references: _mean_of("cider_d", CiderD(references)(candidates)),
    "spice": lambda candidates, references: _mean_of("spice", spice(candidates, references)),
}
