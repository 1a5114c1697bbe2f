"""Negatives: images that a caption does not describe, drawn at random or from a dual encoder's nearest ones.

A pair that is known to match is never a negative: neither the caption's own image nor another image with the same text.
Hard negatives may still fit ("a dog runs" fits many images) since nobody labelled them, so metrics on hard negatives
are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.data.pairs import Pairs
from diptych.errors import DataError

HARD_SHARE = 0.02
"""Share of the images, the most similar to a caption, from which hard negatives are drawn."""

_BLOCK = 512  # captions compared at once


class Matches:
    """The images that each caption is known to describe: its own and every other with the same text.

    Texts that differ only in case and whitespace are the same.

    Args:
        pairs: The data set.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.captions, self.owner = pairs.flat_captions()
        normal = [" ".join(caption.lower().split()) for caption in self.captions]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(normal))}
        self.text_ids = np.array([numbers[text] for text in normal], np.int64)  # (captions,)
        self.images = len(pairs)
        self._of_text: list[list[int]] = [[] for _ in numbers]
        for text, row in zip(self.text_ids.tolist(), self.owner.tolist(), strict=True):
            if row not in self._of_text[text]:
                self._of_text[text].append(row)

    def of(self, caption: int) -> list[int]:
        """The rows of the images that this caption is known to describe, at least its own."""
        return self._of_text[self.text_ids[caption]]

    def others(self, caption: int) -> int:
        """The number of images that are left as negatives."""
        return self.images - len(self.of(caption))


def random_negatives(matches: Matches, count: int = 1, *, seed: int = 0) -> NDArray[np.int64]:
    """`count` images for each caption, drawn uniformly from those it is not known to describe: (captions, count) rows.

    Raises:
        DataError: A caption is known to describe every image.
    """
    random = np.random.default_rng([seed, 1])
    rows = np.empty((len(matches.captions), count), np.int64)
    for caption in range(len(rows)):
        known = matches.of(caption)
        _check_others(matches, caption)
        # Draw among the remaining images, then map to rows by stepping over the known ones.
        chosen = random.integers(matches.others(caption), size=count)
        for row in sorted(known):
            chosen[chosen >= row] += 1
        rows[caption] = chosen
    return rows


def hard_negatives(
    matches: Matches,
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    count: int = 1,
    *,
    share: float = HARD_SHARE,
    seed: int = 0,
) -> NDArray[np.int64]:
    """`count` images for each caption, drawn from those most similar to it: (captions, count) rows.

    They are drawn uniformly with replacement.

    Args:
        matches: Known matches, which are excluded.
        image_embeddings: (images, dim) embeddings.
        text_embeddings: (captions, dim) embeddings.
        count: Negatives for each caption.
        share: Share of the images that count as hard, at least one image. A share rather than a number, so that "hard"
            means the same in small and large data sets.
        seed: Seed of the draws.

    Raises:
        DataError: A caption is known to describe every image.
    """
    random = np.random.default_rng([seed, 2])
    nearest = max(1, round(share * matches.images))
    rows = np.empty((len(matches.captions), count), np.int64)
    for start in range(0, len(rows), _BLOCK):
        scores = text_embeddings[start : start + _BLOCK] @ image_embeddings.T  # (block, images)
        for caption, row_scores in enumerate(scores, start):
            _check_others(matches, caption)
            row_scores[matches.of(caption)] = -np.inf
            k = min(nearest, matches.others(caption))
            pool = np.argpartition(-row_scores, k - 1)[:k]
            rows[caption] = random.choice(np.sort(pool), count)
    return rows


def _check_others(matches: Matches, caption: int) -> None:
    if not matches.others(caption):
        raise DataError(
            f"the caption '{matches.captions[caption][:60]}' describes every image in this part of the data set, so "
            "it can have no negatives; add images"
        )


@dataclass(frozen=True)
class LabelledPairs:
    """Image-text pairs with labels.

    Attributes:
        rows: (pairs,) rows of the images.
        texts: (pairs,) numbers of the texts.
        labels: (pairs,) true or 1 for a match.
        owner: (pairs,) row of each text's own image, by which pairs are grouped for bootstraps.
        sets: Named subsets, as positions of pairs.
    """

    rows: np.ndarray
    texts: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    sets: dict[str, np.ndarray]


def make_labelled_pairs(
    pairs: Pairs,
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    *,
    hard_share: float = HARD_SHARE,
    hard_mixture: float = 0.5,
    seed: int = 0,
) -> LabelledPairs:
    """Pair each caption with its own image, a random negative and a hard one.

    The sets `random` and `hard` hold the matches and the negatives of that kind. The set `mixture` holds the matches
    and one negative for each caption. Half of each set are matches.

    Args:
        pairs: The data set.
        image_embeddings: (images, dim) embeddings of a dual encoder.
        text_embeddings: (captions, dim) embeddings.
        hard_share: As `share` of `hard_negatives`.
        hard_mixture: Share of the captions whose negative in `mixture` is the hard one.
        seed: Seed of the draws.

    Raises:
        DataError: A caption is known to describe every image.
    """
    matches = Matches(pairs)
    count = len(matches.captions)
    easy = random_negatives(matches, seed=seed)[:, 0]
    hard = hard_negatives(matches, image_embeddings, text_embeddings, share=hard_share, seed=seed)[:, 0]
    is_hard = np.random.default_rng([seed, 3]).permutation(count) < round(hard_mixture * count)
    own, first, second = np.split(np.arange(3 * count), 3)
    return LabelledPairs(
        rows=np.concatenate([matches.owner, easy, hard]),
        texts=np.tile(np.arange(count), 3),
        labels=np.repeat([True, False, False], count),
        owner=np.tile(matches.owner, 3),
        sets={
            "mixture": np.concatenate([own, np.where(is_hard, second, first)]),
            "random": np.concatenate([own, first]),
            "hard": np.concatenate([own, second]),
        },
    )
