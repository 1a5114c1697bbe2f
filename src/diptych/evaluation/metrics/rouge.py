"""ROUGE-L of captions as coco-caption computes it (Lin 2004; `pycocoevalcap.rouge`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.evaluation.metrics.bleu import Words, check_pictures

_BETA = 1.2  # how much more recall weighs than precision; coco-caption's


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """F-measure of the longest common subsequence of words: (pictures,) in [0, 1].

    Precision and recall are each the best over the references, which need not be the same one. coco-caption's score of
    all pictures is the mean of these.

    Args:
        candidates: for each picture the words of its caption; one without words scores 0.
        references: for each picture the words of each of its references, at least one.

    Raises:
        ValueError: there is no picture, or there are not as many references as candidates.

    Two of three words are common: precision and recall are both 2/3, and so is their F-measure.

    >>> rouge_l([["a", "brown", "dog"]], [[["a", "big", "dog"]]]).round(4).tolist()
    [0.6667]
    """
    check_pictures(candidates, references)
    return np.array([_score(*each) for each in zip(candidates, references, strict=True)])


def _score(words: Words, references: Sequence[Words]) -> float:
    common = [common_subsequence(words, reference) for reference in references]
    precision = max(common) / max(len(words), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest sequence of words that stands in both in this order, with gaps or without.

    >>> common_subsequence("a dog on a red mat".split(), "a red dog on the mat".split())
    4
    """
    lengths = [0] * (len(other) + 1)  # of the words of `one` seen so far and the first words of `other`
    for word in one:
        before = 0
        for at, against in enumerate(other, 1):
            before, lengths[at] = lengths[at], before + 1 if word == against else max(lengths[at], lengths[at - 1])
    return lengths[-1]
