"""Similarity of predicted text embeddings to the true ones: cosine, rank of the true prompt, normalised cosine."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.models.cosine import normalize

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCK = 1024  # images compared with all prompts at once
_TIE = 1e-9  # cosines of equal prompts differ in their last digits, depending on their position in the matrix


@dataclass(frozen=True)
class SimilarityScores:
    """Cosines of predicted and true prompt embeddings, and ranks of the true prompts.

    Attributes:
        mean: mean cosine over all true prompts, in [-1, 1].
        median: median cosine.
        quantiles: quantile level (those of `QUANTILES`) to cosine.
        median_rank: median over prompts of the rank among all prompts, from 1 (best).
        median_first_rank: median over images of the best rank of the image's prompts.
        prompts: number of true prompts.
        images: number of images that have a prompt.
        normalised: (mean - floor) / (1 - floor), where `floor` is the mean cosine of one constant prediction for all
            images: 0 is no better than that, 1 is the true embedding. None if no floor is known.
    """

    mean: float
    median: float
    quantiles: dict[float, float]
    median_rank: float
    median_first_rank: float
    prompts: int
    images: int
    normalised: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """All numbers by name; quantiles have keys such as `quantile_0.05`."""
        numbers = asdict(self)
        quantiles = numbers.pop("quantiles")
        return numbers | {f"quantile_{level:g}": value for level, value in quantiles.items()}


def paired_cosines(
    predicted: NDArray[np.floating], prompts: NDArray[np.floating], image_index: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The cosine of each true prompt and its image's prediction: (prompts,) in [-1, 1].

    Args:
        predicted: (images, dim) predicted embeddings, of any length above 0.
        prompts: (prompts, dim) embeddings of the true prompts, of any length above 0.
        image_index: (prompts,) integers in [0, images): the image of each prompt.

    >>> paired_cosines(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([0, 0])).tolist()
    [1.0, 0.0]
    """
    return np.sum(_normalized(predicted)[image_index] * _normalized(prompts), axis=1)


def prompt_ranks(
    predicted: NDArray[np.floating], prompts: NDArray[np.floating], image_index: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The rank of each true prompt among all prompts, by cosine to its image's prediction: (prompts,), from 1.

    The rank is 1 + the number of other images' prompts that are at least as close, so ties count against the true
    prompt; the image's other prompts are not counted. A prompt that also belongs to another image ties with its copy
    and so is never ranked first.

    Args:
        predicted: (images, dim) predicted embeddings, of any length above 0.
        prompts: (prompts, dim) embeddings of the true prompts, of any length above 0.
        image_index: (prompts,) integers in [0, images): the image of each prompt.

    >>> predicted = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> prompts = np.array([[1.0, 0.1], [0.6, 0.8], [0.8, 0.6]])  # the last is closer to image 0 than its second prompt
    >>> prompt_ranks(predicted, prompts, np.array([0, 0, 1])).tolist()
    [1, 2, 2]
    """
    predicted, prompts = _normalized(predicted), _normalized(prompts)
    ranks = np.empty(len(prompts), np.int64)
    order = np.argsort(image_index, kind="stable")
    starts = np.searchsorted(image_index[order], np.arange(len(predicted) + 1))  # of each image in `order`
    for start in range(0, len(predicted), _BLOCK):
        cosines = predicted[start : start + _BLOCK] @ prompts.T  # (block, prompts)
        for image, of_image in enumerate(cosines, start):
            own = order[starts[image] : starts[image + 1]]
            others = np.sort(np.delete(of_image, own))
            ranks[own] = 1 + len(others) - np.searchsorted(others, of_image[own] - _TIE, "left")
    return ranks


def similarity_metrics(
    predicted: NDArray[np.floating],
    prompts: NDArray[np.floating],
    image_index: NDArray[np.integer],
    *,
    floor: float | None = None,
) -> SimilarityScores:
    """Score predicted embeddings against those of the true prompts.

    Args:
        predicted: (images, dim) predicted embeddings, of any length above 0.
        prompts: (prompts, dim) embeddings of the true prompts, of any length above 0.
        image_index: (prompts,) integers in [0, images): the image of each prompt.
        floor: mean cosine of a constant prediction, for `SimilarityScores.normalised`.

    Raises:
        ValueError: there is no prompt, or `image_index` has another length or is out of range.

    One image with one prompt, at a cosine of 0.6:

    >>> scores = similarity_metrics(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]), np.array([0]), floor=0.2)
    >>> round(scores.mean, 4), round(scores.normalised, 4), scores.median_rank
    (0.6, 0.5, 1.0)
    """
    if not len(prompts) or len(prompts) != len(image_index):
        raise ValueError(f"{len(prompts)} prompts and an image_index of {len(image_index)}; give one index a prompt")
    if image_index.min() < 0 or image_index.max() >= len(predicted):
        raise ValueError(
            f"image_index spans {image_index.min()} to {image_index.max()}; there are {len(predicted)} images"
        )
    cosines = paired_cosines(predicted, prompts, image_index)
    ranks = prompt_ranks(predicted, prompts, image_index)
    first = np.full(len(predicted), np.iinfo(np.int64).max)
    np.minimum.at(first, image_index, ranks)
    with_prompt = np.unique(image_index)
    return SimilarityScores(
        mean=float(cosines.mean()),
        median=float(np.median(cosines)),
        quantiles={level: float(np.quantile(cosines, level)) for level in QUANTILES},
        median_rank=float(np.median(ranks)),
        median_first_rank=float(np.median(first[with_prompt])),
        prompts=len(prompts),
        images=len(with_prompt),
        normalised=None if floor is None else float((cosines.mean() - floor) / (1 - floor)),
    )


def _normalized(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return normalize(np.asarray(vectors, np.float64))
