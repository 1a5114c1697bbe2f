"""BLEU of captions as coco-caption computes it (Papineni et al. 2002; `pycocoevalcap.bleu.bleu_scorer`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

Words = Sequence[Hashable]  # of a caption: texts, or their numbers in a vocabulary

# coco-caption's: they keep 0 / 0 at 0, and are why a perfect caption scores 0.9999999... and not 1.
_SMALL, _TINY = 1e-9, 1e-15


def ngram_counts(words: Words, longest: int) -> Counter[tuple[Hashable, ...]]:
    """How often each run of 1 to `longest` words stands in `words`.

    >>> ngram_counts(["a", "dog", "a"], 2)
    Counter({('a',): 2, ('dog',): 1, ('a', 'dog'): 1, ('dog', 'a'): 1})
    """
    return Counter(tuple(words[at : at + n]) for n in range(1, longest + 1) for at in range(len(words) - n + 1))


def bleu(
    candidates: Sequence[Words], references: Sequence[Sequence[Words]], longest: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1 to BLEU-`longest`, of all pictures together and of each.

    An n-gram of a candidate counts as often as it stands in the reference that has it most often. The brevity penalty
    is against the reference whose length is nearest to the candidate's, the shorter one of two that are equally near.
    Over all pictures, counts and lengths are summed before they are divided, so that it is not the mean of the
    pictures. No smoothing: a picture without a matching 4-gram has a BLEU-4 of next to 0.

    Args:
        candidates: for each picture the words of its caption.
        references: for each picture the words of each of its references, at least one.

    Returns:
        (longest,) over all pictures, and (pictures, longest), in [0, 1].

    Raises:
        ValueError: there is no picture, or there are not as many references as candidates.

    Two of three words and one of two pairs of words are in the reference:

    >>> corpus, _ = bleu([["a", "brown", "dog"]], [[["a", "brown", "cat"]]], longest=2)
    >>> corpus.round(4).tolist()  # 2/3, and the root of 2/3 * 1/2
    [0.6667, 0.5774]
    """
    check_pictures(candidates, references)
    counts = [_matches(words, of_picture, longest) for words, of_picture in zip(candidates, references, strict=True)]
    per_picture = np.array([_score(*each) for each in counts])
    matched, possible, lengths, nearest = zip(*counts, strict=True)
    return _score(np.sum(matched, axis=0), np.sum(possible, axis=0), sum(lengths), sum(nearest)), per_picture


def check_pictures(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    """Refuse candidates and references that do not belong together.

    Raises:
        ValueError: there is none, there are not as many of one as of the other, or a picture has no reference.
    """
    if not candidates or len(candidates) != len(references):
        raise ValueError(
            f"{len(candidates)} candidates and references of {len(references)} pictures; give one for each"
        )
    bare = [row for row, of_picture in enumerate(references) if not of_picture]
    if bare:
        raise ValueError(f"picture {bare[0]} has no reference ({len(bare)} such of {len(references)})")


def _matches(words: Words, references: Sequence[Words], longest: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Matching n-grams (longest,), all n-grams (longest,), the candidate's length and the nearest of a reference."""
    most: Counter[tuple[Hashable, ...]] = Counter()
    for reference in references:
        most |= ngram_counts(reference, longest)
    matched = np.zeros(longest)
    for ngram, count in ngram_counts(words, longest).items():
        matched[len(ngram) - 1] += min(count, most[ngram])
    possible = np.maximum(0, len(words) - np.arange(longest)).astype(float)
    nearest = min((abs(len(each) - len(words)), len(each)) for each in references)[1]
    return matched, possible, len(words), nearest


def _score(matched: np.ndarray, possible: np.ndarray, length: int, nearest: int) -> np.ndarray:
    precision = np.cumprod((matched + _TINY) / (possible + _SMALL))
    scores = precision ** (1 / np.arange(1, len(matched) + 1))
    ratio = (length + _TINY) / (nearest + _SMALL)
    return scores * math.exp(1 - 1 / ratio) if ratio < 1 else scores
