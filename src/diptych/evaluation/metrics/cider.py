"""CIDEr-D as coco-caption computes it (Vedantam et al. 2015; `pycocoevalcap.cider.cider_scorer`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.evaluation.metrics.bleu import Words, check_references, ngram_counts

_LONGEST, _SIGMA, _SCALE = 4, 6.0, 10.0


class CiderD:
    """CIDEr-D against the references of one set of images.

    For n from 1 to 4, a caption is the vector of the TF-IDF weights of its n-grams: count * log(images / images whose
    references have the n-gram). The score is 10 times the mean, over references and n, of the cosine with the
    candidate's weights clipped to the reference's, times exp(-(difference of length)^2 / (2 * 6^2)). Lengths are
    counted in bigrams, as in coco-caption, which calls this score CIDEr.

    An n-gram that all images have weighs nothing, so every caption of a set of one image scores 0. Scores on different
    sets of images are not comparable.

    Args:
        references: the words of each image's references, at least one for each image.

    Raises:
        ValueError: there is no image, or an image has no reference.

    The second candidate equals the reference of its image; the first has no word in common with its own.

    >>> words = [["two", "dogs"], ["a", "red", "car"]]
    >>> CiderD([[["some", "cats"]], [words[1]]])(words).round(4).tolist()  # no 4-gram in three words: 3/4 of 10
    [0.0, 7.5]
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        check_references(references, references)
        self.references = references
        self._images: Counter[tuple[Hashable, ...]] = Counter()  # document frequency: images with each n-gram
        for of_image in references:
            self._images.update({ngram for words in of_image for ngram in ngram_counts(words, _LONGEST)})
        self._log_images = math.log(len(references))

    def __call__(self, candidates: Sequence[Words], rows: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Score captions: (candidates,) in [0, 10]; coco-caption's corpus score is their mean.

        Args:
            candidates: the words of each caption.
            rows: the image of each candidate; an image may have several. By default, one candidate for each image.

        Raises:
            ValueError: the lengths differ.
        """
        rows = range(len(self.references)) if rows is None else rows
        if len(rows) != len(candidates):
            raise ValueError(f"{len(candidates)} candidates for {len(rows)} rows; give one row a candidate")
        weighed: dict[int, list[_Vector]] = {}  # of the last image only: its candidates are usually adjacent
        scores = np.zeros(len(candidates))
        for i, (words, row) in enumerate(zip(candidates, rows, strict=True)):
            if row not in weighed:
                weighed = {row: [self._vector(reference) for reference in self.references[row]]}
            candidate = self._vector(words)
            scores[i] = _SCALE * np.mean([candidate.cosine(reference) for reference in weighed[row]])
        return scores

    def _vector(self, words: Words) -> _Vector:
        counts = ngram_counts(words, _LONGEST)
        return _Vector(
            {ngram: n * (self._log_images - math.log(max(1, self._images[ngram]))) for ngram, n in counts.items()},
            max(len(words) - 1, 0),
        )


class _Vector:
    """The TF-IDF weights of a caption's n-grams, their norm for each n, and its length in bigrams."""

    def __init__(self, weights: dict[tuple[Hashable, ...], float], length: int) -> None:
        self.weights, self.length = weights, length
        squares = [0.0] * _LONGEST
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        self.norms = [math.sqrt(square) for square in squares]

    def cosine(self, reference: _Vector) -> float:
        """Mean over n of the clipped cosines, times the length penalty: in [0, 1]."""
        products = [0.0] * _LONGEST
        for ngram, weight in self.weights.items():
            if (other := reference.weights.get(ngram)) is not None:
                products[len(ngram) - 1] += min(weight, other) * other
        norms = [own * others for own, others in zip(self.norms, reference.norms, strict=True)]
        cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
        return sum(cosines) / _LONGEST * math.exp(-((self.length - reference.length) ** 2) / (2 * _SIGMA**2))
