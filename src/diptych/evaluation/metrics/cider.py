"""CIDEr-D of captions as coco-caption computes it (Vedantam et al. 2015; `pycocoevalcap.cider.cider_scorer`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from diptych.evaluation.metrics.bleu import Words, check_pictures, ngram_counts

_LONGEST, _SIGMA, _SCALE = 4, 6.0, 10.0


class CiderD:
    """CIDEr-D against the references of one set of pictures.

    Each caption is, for n from 1 to 4, the vector of its n-grams, each weighing its count times the logarithm of
    pictures / pictures whose references have it. A score is 10 times the mean, over references and n, of the cosine
    with the candidate's weights clipped to the reference's, times exp(-(difference of length)^2 / (2 * 6^2)). Lengths
    are counted in pairs of words, as coco-caption does. It calls this score CIDEr.

    An n-gram that all pictures have weighs nothing, so that a set of a single picture scores 0 throughout, whatever the
    captions; scores from sets of different pictures cannot be compared.

    Args:
        references: for each picture the words of each of its references, at least one.

    Raises:
        ValueError: there is no picture, or one has no reference.

    The second candidate is the reference of its picture, word by word; the first has nothing in common with its own.

    >>> words = [["two", "dogs"], ["a", "red", "car"]]
    >>> CiderD([[["some", "cats"]], [words[1]]])(words).round(4).tolist()  # no 4-gram in three words: 3/4 of 10
    [0.0, 7.5]
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        check_pictures(references, references)
        self.references = references
        self._pictures: Counter[tuple[Hashable, ...]] = Counter()  # how many pictures' references have an n-gram
        for of_picture in references:
            self._pictures.update({ngram for words in of_picture for ngram in ngram_counts(words, _LONGEST)})
        self._log_all = math.log(len(references))

    def __call__(self, candidates: Sequence[Words], rows: Sequence[int] | None = None) -> np.ndarray:
        """Score (candidates,) captions, each in [0, 10]; coco-caption's score of all pictures is their mean.

        `rows` says which picture each is for, so that a picture may have several; one for each in order when not given.

        Raises:
            ValueError: there are not as many rows, or not as many candidates as pictures.
        """
        rows = range(len(self.references)) if rows is None else rows
        if len(rows) != len(candidates):
            raise ValueError(f"{len(candidates)} candidates for {len(rows)} pictures; give one for each")
        weighed: dict[int, list[_Vector]] = {}  # of the last picture: candidates of one mostly follow each other
        scores = np.zeros(len(candidates))
        for at, (words, row) in enumerate(zip(candidates, rows, strict=True)):
            if row not in weighed:
                weighed = {row: [self._vector(each) for each in self.references[row]]}
            candidate = self._vector(words)
            scores[at] = _SCALE * np.mean([candidate.cosine(reference) for reference in weighed[row]])
        return scores

    def _vector(self, words: Words) -> _Vector:
        counts = ngram_counts(words, _LONGEST)
        return _Vector(
            {ngram: n * (self._log_all - math.log(max(1, self._pictures[ngram]))) for ngram, n in counts.items()},
            max(len(words) - 1, 0),
        )


class _Vector:
    """The weighed n-grams of a caption, the norm for each n, and its length in pairs of words."""

    def __init__(self, weights: dict[tuple[Hashable, ...], float], length: int) -> None:
        self.weights, self.length = weights, length
        squares = [0.0] * _LONGEST
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        self.norms = [math.sqrt(square) for square in squares]

    def cosine(self, reference: _Vector) -> float:
        """The mean over n of the clipped cosines, less for a difference of length: in [0, 1]."""
        products = [0.0] * _LONGEST
        for ngram, weight in self.weights.items():
            if (other := reference.weights.get(ngram)) is not None:
                products[len(ngram) - 1] += min(weight, other) * other
        norms = [own * others for own, others in zip(self.norms, reference.norms, strict=True)]
        cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
        return sum(cosines) / _LONGEST * math.exp(-((self.length - reference.length) ** 2) / (2 * _SIGMA**2))
