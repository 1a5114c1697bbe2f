"""How near predicted text embeddings are to the true ones: cosine, rank of the true prompt, a normalised figure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BLOCK = 1024  # pictures compared with all prompts at once
_TIE = 1e-9  # equal prompts get cosines that differ in their last digits, by where they stand in the matrix


@dataclass(frozen=True)
class SimilarityScores:
    """Cosines over all pairs of picture and true prompt, and where the true prompts stand among all.

    `mean`, `median` and `quantiles` (by share, those of `QUANTILES`) are of the cosines, in [-1, 1]. `normalised` is
    (mean - floor) / (1 - floor), where `floor` is the mean cosine of one vector for every picture: 0 is no better than
    that, 1 is the true embedding; None when no floor is known. `median_rank` is over prompts, `median_first_rank` over
    pictures (the best of each picture's prompts); 1 is best.
    """

    mean: float
    median: float
    quantiles: dict[float, float]
    median_rank: float
    median_first_rank: float
    prompts: int
    pictures: int
    normalised: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """Every number by its name; a quantile is `quantile_0.05` and the like."""
        told = asdict(self)
        shares = told.pop("quantiles")
        return told | {f"quantile_{share:g}": value for share, value in shares.items()}


def paired_cosines(predicted: np.ndarray, prompts: np.ndarray, image_index: np.ndarray) -> np.ndarray:
    """The cosine of each true prompt and what was predicted for its picture: (prompts,) float64 in [-1, 1].

    `predicted` is (pictures, dim), `prompts` (prompts, dim), `image_index` (prompts,) the picture of each; vectors of
    any length but zero.

    >>> paired_cosines(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([0, 0])).tolist()
    [1.0, 0.0]
    """
    return np.sum(_unit(predicted)[image_index] * _unit(prompts), axis=1)


def prompt_ranks(predicted: np.ndarray, prompts: np.ndarray, image_index: np.ndarray) -> np.ndarray:
    """The rank of each true prompt by cosine to its picture's prediction, among all prompts: (prompts,) int64, from 1.

    A picture's other true prompts are no competitors: the rank is 1 + the number of other pictures' prompts that are
    at least as near, so a tie counts against the true one. A prompt whose very text another picture has too is so
    never first: that picture's copy ties with it.

    >>> predicted = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> prompts = np.array([[1.0, 0.1], [0.6, 0.8], [0.8, 0.6]])  # the last is nearer to the first picture
    >>> prompt_ranks(predicted, prompts, np.array([0, 0, 1])).tolist()
    [1, 2, 2]
    """
    predicted, prompts = _unit(predicted), _unit(prompts)
    ranks = np.empty(len(prompts), np.int64)
    order = np.argsort(image_index, kind="stable")
    for start in range(0, len(predicted), _BLOCK):
        cosines = predicted[start : start + _BLOCK] @ prompts.T  # (block, prompts)
        for row, near in enumerate(cosines, start):
            own = order[np.searchsorted(image_index[order], row) : np.searchsorted(image_index[order], row, "right")]
            others = np.sort(np.delete(near, own))
            ranks[own] = 1 + len(others) - np.searchsorted(others, near[own] - _TIE, "left")
    return ranks


def similarity_metrics(
    predicted: np.ndarray, prompts: np.ndarray, image_index: np.ndarray, *, floor: float | None = None
) -> SimilarityScores:
    """Score (pictures, dim) predictions against (prompts, dim) true embeddings; `floor` as in `SimilarityScores`.

    Raises:
        ValueError: there is no prompt, or one belongs to no picture.
    """
    if not len(prompts) or len(prompts) != len(image_index):
        raise ValueError(f"{len(prompts)} prompts and {len(image_index)} places; give at least one, and a place each")
    if image_index.min() < 0 or image_index.max() >= len(predicted):
        raise ValueError(f"a prompt belongs to picture {image_index.max()}, but there are {len(predicted)}")
    cosines = paired_cosines(predicted, prompts, image_index)
    ranks = prompt_ranks(predicted, prompts, image_index)
    first = np.full(len(predicted), np.iinfo(np.int64).max)
    np.minimum.at(first, image_index, ranks)
    with_prompt = np.unique(image_index)
    return SimilarityScores(
        mean=float(cosines.mean()),
        median=float(np.median(cosines)),
        quantiles={share: float(np.quantile(cosines, share)) for share in QUANTILES},
        median_rank=float(np.median(ranks)),
        median_first_rank=float(np.median(first[with_prompt])),
        prompts=len(prompts),
        pictures=len(with_prompt),
        normalised=None if floor is None else float((cosines.mean() - floor) / (1 - floor)),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
