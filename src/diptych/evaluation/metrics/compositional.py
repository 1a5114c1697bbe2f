"""Whether a model tells a caption from one with the same words in other places: choices, and Winoground's scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def right_choices(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Whether the right caption scores more than the wrong one: (n,) booleans; a tie is no choice, so it is wrong.

    Their mean is the accuracy of SugarCrepe (Hsieh et al. 2023), where guessing gives one half.

    >>> right_choices(np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.4])).tolist()
    [True, False, False]
    """
    return np.asarray(right) > np.asarray(wrong)


@dataclass(frozen=True)
class WinogroundScores:
    """Winoground's three scores in percent: of `text` and `image` guessing gives 25, of `group` 16.7."""

    text: float
    image: float
    group: float
    examples: int


def winoground_scores(scores: np.ndarray) -> WinogroundScores:
    """Text, image and group score (Thrush et al. 2022, section 3) of examples with two captions and two pictures.

    An example's text score is right when each picture scores more with its own caption than with the other, its image
    score when each caption scores more with its own picture than with the other, its group score when both are. A tie
    is wrong.

    Args:
        scores: (examples, 2, 2): `scores[e, c, i]` of caption c with picture i of example e.

    Raises:
        ValueError: the shape is another, or there is no example.

    Each picture prefers its caption, but caption 1 prefers picture 0:

    >>> winoground_scores(np.array([[[0.9, 0.1], [0.5, 0.3]]]))
    WinogroundScores(text=100.0, image=0.0, group=0.0, examples=1)
    """
    found = np.asarray(scores)
    if found.ndim != 3 or found.shape[1:] != (2, 2) or not len(found):
        raise ValueError(f"scores are {found.shape}; they must be (examples, 2 captions, 2 pictures), and not empty")
    text, image = right_texts(found), right_images(found)
    shares = {"text": text, "image": image, "group": text & image}
    return WinogroundScores(**{name: 100 * float(right.mean()) for name, right in shares.items()}, examples=len(found))


def right_texts(scores: np.ndarray) -> np.ndarray:
    """(examples,) whether both pictures prefer their own caption."""
    return (scores[:, 0, 0] > scores[:, 1, 0]) & (scores[:, 1, 1] > scores[:, 0, 1])


def right_images(scores: np.ndarray) -> np.ndarray:
    """(examples,) whether both captions prefer their own picture."""
    return (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])
