"""BLEU as coco-caption computes it (Papineni et al. 2002; `pycocoevalcap.bleu.bleu_scorer`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Words = Sequence[Hashable]
"""The tokens of one caption: strings, or their ids in a vocabulary."""

# coco-caption's constants. They make 0 / 0 equal 0, and a perfect caption score 0.9999999... instead of 1.
_SMALL, _TINY = 1e-9, 1e-15


def ngram_counts(words: Words, longest: int) -> Counter[tuple[Hashable, ...]]:
    """Count the n-grams of `words` for n from 1 to `longest`.

    >>> ngram_counts(["a", "dog", "a"], 2)
    Counter({('a',): 2, ('dog',): 1, ('a', 'dog'): 1, ('dog', 'a'): 1})
    """
    return Counter(tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))


def bleu(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]], longest: int = 4
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BLEU-1 to BLEU-`longest` of the corpus and of each image.

    Matches of an n-gram are clipped to its largest count in a single reference. The brevity penalty uses the reference
    whose length is closest to the candidate's, the shorter of two. Corpus scores sum counts and lengths over all images
    before dividing, so they are not the mean over images. There is no smoothing: an image without a matching 4-gram has
    a BLEU-4 of almost 0.

    Args:
        candidates: the words of each image's caption.
        references: the words of each image's references, at least one for each image.
        longest: largest n.

    Returns:
        (longest,) for the corpus, and (images, longest), in [0, 1].

    Raises:
        ValueError: there is no image, an image has no reference, or the lengths differ.

    Two of three words and one of two bigrams are in the reference:

    >>> corpus, _ = bleu([["a", "brown", "dog"]], [[["a", "brown", "cat"]]], longest=2)
    >>> corpus.round(4).tolist()  # 2/3, and the root of 2/3 * 1/2
    [0.6667, 0.5774]
    """
    check_references(candidates, references)
    counts = [_matches(words, of_image, longest) for words, of_image in zip(candidates, references, strict=True)]
    per_image = np.array([_score(*of_image) for of_image in counts])
    matched, possible, lengths, nearest = zip(*counts, strict=True)
    return _score(np.sum(matched, axis=0), np.sum(possible, axis=0), sum(lengths), sum(nearest)), per_image


def check_references(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    """Check that there is one candidate and at least one reference for each image.

    Raises:
        ValueError: there is no image, an image has no reference, or the lengths differ.
    """
    if not candidates or len(candidates) != len(references):
        raise ValueError(
            f"{len(candidates)} candidates and references of {len(references)} images; give one candidate an image"
        )
    without = [row for row, of_image in enumerate(references) if not of_image]
    if without:
        raise ValueError(f"image {without[0]} has no reference ({len(without)} such of {len(references)})")


def _matches(
    words: Words, references: Sequence[Words], longest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """Matching n-grams (longest,), all n-grams (longest,), the candidate's length and the closest reference length."""
    largest: Counter[tuple[Hashable, ...]] = Counter()
    for reference in references:
        largest |= ngram_counts(reference, longest)
    matched = np.zeros(longest)
    for ngram, count in ngram_counts(words, longest).items():
        matched[len(ngram) - 1] += min(count, largest[ngram])
    possible = np.maximum(0, len(words) - np.arange(longest)).astype(float)
    nearest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    return matched, possible, len(words), nearest


def _score(
    matched: NDArray[np.float64], possible: NDArray[np.float64], length: int, nearest: int
) -> NDArray[np.float64]:
    precision = np.cumprod((matched + _TINY) / (possible + _SMALL))
    scores = precision ** (1 / np.arange(1, len(matched) + 1))
    ratio = (length + _TINY) / (nearest + _SMALL)
    return scores * math.exp(1 - 1 / ratio) if ratio < 1 else scores
