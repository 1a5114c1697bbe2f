"""Compositional accuracy: binary choices between a right and a wrong caption, and Winoground's scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def right_choices(right: NDArray[np.floating], wrong: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether the right caption scores higher than the wrong one: (n,); a tie counts as wrong.

    The mean is the accuracy of SugarCrepe (Hsieh et al. 2023), where chance is one half.

    Args:
        right: (n,) scores of the right captions.
        wrong: (n,) scores of the wrong ones.

    >>> right_choices(np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.4])).tolist()
    [True, False, False]
    """
    return np.asarray(right) > np.asarray(wrong)


@dataclass(frozen=True)
class WinogroundScores:
    """Winoground's scores in percent. Chance is 25 for `text` and `image`, and 16.7 for `group`."""

    text: float
    image: float
    group: float
    examples: int


def winoground_scores(scores: NDArray[np.floating]) -> WinogroundScores:
    """Text, image and group score (Thrush et al. 2022, section 3) of examples with two captions and two images.

    The text score of an example is right if each image scores higher with its own caption than with the other; the
    image score if each caption scores higher with its own image than with the other; the group score if both are. A tie
    counts as wrong.

    Args:
        scores: (examples, 2, 2): `scores[e, c, i]` is the score of caption c with image i of example e.

    Raises:
        ValueError: the shape is not this, or there is no example.

    Each image prefers its caption, but caption 1 prefers image 0:

    >>> winoground_scores(np.array([[[0.9, 0.1], [0.5, 0.3]]]))
    WinogroundScores(text=100.0, image=0.0, group=0.0, examples=1)
    """
    scores = np.asarray(scores)
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or not len(scores):
        raise ValueError(f"scores are {scores.shape}; they must be (examples, 2 captions, 2 images), and not empty")
    text, image = right_texts(scores), right_images(scores)
    shares = {"text": text, "image": image, "group": text & image}
    return WinogroundScores(**{name: 100 * float(right.mean()) for name, right in shares.items()}, examples=len(scores))


def right_texts(scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether both images prefer their own caption: (examples,), from scores as in `winoground_scores`."""
    return (scores[:, 0, 0] > scores[:, 1, 0]) & (scores[:, 1, 1] > scores[:, 0, 1])


def right_images(scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether both captions prefer their own image: (examples,), from scores as in `winoground_scores`."""
    return (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])
