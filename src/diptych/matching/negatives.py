"""Pictures that a caption does not describe: random ones, and hard ones that a dual encoder takes for likely.

Nothing here calls a pair a negative that is known to match: the caption's own picture, or another picture that carries
the same text. A hard negative may still fit ("a dog runs" fits many pictures); nobody labelled that, so what is
measured on hard negatives is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.data.pairs import Pairs
from diptych.errors import DataError

HARD_SHARE = 0.02  # of the pictures: those most similar to the caption, among which hard negatives are drawn
_BLOCK = 512  # captions compared at once


class Matches:
    """Which pictures a caption is known to describe: its own, and every other that carries the same text.

    Texts that differ in case and spaces alone are the same text.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.captions, self.owner = pairs.flat_captions()
        plain = [" ".join(caption.lower().split()) for caption in self.captions]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(plain))}
        self.text_ids = np.array([numbers[text] for text in plain], np.int64)  # (captions,)
        self.pictures = len(pairs)
        self._of_text: list[list[int]] = [[] for _ in numbers]
        for text, row in zip(self.text_ids.tolist(), self.owner.tolist(), strict=True):
            if row not in self._of_text[text]:
                self._of_text[text].append(row)

    def of(self, caption: int) -> list[int]:
        """The rows of the pictures that this caption is known to describe, at least its own."""
        return self._of_text[self.text_ids[caption]]

    def others(self, caption: int) -> int:
        """How many pictures are left as negatives."""
        return self.pictures - len(self.of(caption))


def random_negatives(matches: Matches, count: int = 1, *, seed: int = 0) -> np.ndarray:
    """For each caption `count` pictures that it is not known to describe, each as likely: (captions, count) rows.

    Raises:
        DataError: a caption is known to describe every picture.
    """
    random = np.random.default_rng([seed, 1])
    rows = np.empty((len(matches.captions), count), np.int64)
    for caption in range(len(rows)):
        known = matches.of(caption)
        _check_others(matches, caption)
        # The n-th of the pictures that are left, found by stepping over the known ones.
        chosen = random.integers(matches.others(caption), size=count)
        for row in sorted(known):
            chosen[chosen >= row] += 1
        rows[caption] = chosen
    return rows


def hard_negatives(
    matches: Matches,
    image_vectors: np.ndarray,
    text_vectors: np.ndarray,
    count: int = 1,
    *,
    share: float = HARD_SHARE,
    seed: int = 0,
) -> np.ndarray:
    """For each caption `count` pictures out of the `share` that a dual encoder finds most similar: (captions, count).

    A share and not a number, so that "hard" means the same in small and large sets; it is at least one picture. Each
    is drawn with the same chance, and one may come twice.

    Args:
        image_vectors: (pictures, dim) unit vectors.
        text_vectors: (captions, dim) unit vectors.

    Raises:
        DataError: a caption is known to describe every picture.
    """
    random = np.random.default_rng([seed, 2])
    nearest = max(1, round(share * matches.pictures))
    rows = np.empty((len(matches.captions), count), np.int64)
    for start in range(0, len(rows), _BLOCK):
        scores = text_vectors[start : start + _BLOCK] @ image_vectors.T  # (block, pictures)
        for at, row_scores in enumerate(scores):
            caption = start + at
            _check_others(matches, caption)
            row_scores[matches.of(caption)] = -np.inf
            k = min(nearest, matches.others(caption))
            pool = np.argpartition(-row_scores, k - 1)[:k]
            rows[caption] = random.choice(np.sort(pool), count)
    return rows


def _check_others(matches: Matches, caption: int) -> None:
    if not matches.others(caption):
        raise DataError(
            f"the caption '{matches.captions[caption][:60]}' describes every picture of this part of the data set, so "
            "nothing is left that it does not describe; add pictures"
        )


@dataclass(frozen=True)
class LabelledPairs:
    """Pictures put to texts, with what is known of each pair: (pairs,) rows of pictures, numbers of texts, 0/1 labels.

    `owner` is the row of each text's own picture, by which pairs belong together; `sets` names parts of the pairs.
    """

    rows: np.ndarray
    texts: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    sets: dict[str, np.ndarray]


def make_labelled_pairs(
    pairs: Pairs,
    image_vectors: np.ndarray,
    text_vectors: np.ndarray,
    *,
    hard_share: float = HARD_SHARE,
    hard_mixture: float = 0.5,
    seed: int = 0,
) -> LabelledPairs:
    """Each caption with its own picture, with a random negative and with a hard one, vectors being a dual encoder's.

    The sets `random` and `hard` hold the matches and the negatives of that kind; `mixture` the matches and one negative
    a caption, a hard one for the share `hard_mixture` of the captions. Matches are half of each.

    Raises:
        DataError: a caption is known to describe every picture.
    """
    matches = Matches(pairs)
    count = len(matches.captions)
    easy = random_negatives(matches, seed=seed)[:, 0]
    hard = hard_negatives(matches, image_vectors, text_vectors, share=hard_share, seed=seed)[:, 0]
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
