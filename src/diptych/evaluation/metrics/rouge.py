"""ROUGE-L as coco-caption computes it (Lin 2004; `pycocoevalcap.rouge`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.evaluation.metrics.bleu import Words, check_references

_BETA = 1.2  # weight of recall over precision; coco-caption's


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """F-measure of the longest common subsequence of words: (images,) in [0, 1].

    Precision and recall are each the largest over the references, not necessarily the same reference. coco-caption's
    corpus score is the mean over images.

    Args:
        candidates: the words of each image's caption; a caption without words scores 0.
        references: the words of each image's references, at least one for each image.

    Raises:
        ValueError: there is no image, an image has no reference, or the lengths differ.

    Two of three words are common: precision and recall are both 2/3, and so is their F-measure.

    >>> rouge_l([["a", "brown", "dog"]], [[["a", "big", "dog"]]]).round(4).tolist()
    [0.6667]
    """
    check_references(candidates, references)
    return np.array([_score(*of_image) for of_image in zip(candidates, references, strict=True)])


def _score(words: Words, references: Sequence[Words]) -> float:
    common = [common_subsequence(words, reference) for reference in references]
    precision = max(common) / max(len(words), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest common subsequence: words that occur in both in the same order, not necessarily adjacent.

    >>> common_subsequence("a dog on a red mat".split(), "a red dog on the mat".split())
    4
    """
    lengths = [0] * (len(other) + 1)  # lengths[j]: of the words of `one` so far and the first j words of `other`
    for word in one:
        diagonal = 0
        for j, against in enumerate(other, 1):
            diagonal, lengths[j] = lengths[j], diagonal + 1 if word == against else max(lengths[j], lengths[j - 1])
    return lengths[-1]
