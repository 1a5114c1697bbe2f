"""Image-text retrieval metrics in the protocol of Karpathy and Fei-Fei (2015): ranks, R@K, median rank, MRR.

Image to text: each image queries all captions. Its rank is that of its best-ranked own caption; its other captions are
not counted as ranked before it. Text to image: each caption queries all images.

Ties are resolved against the model: every candidate that scores the same as the right one counts as ranked before it.
A model that maps every input to one embedding therefore ranks last, not first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Embeddings = NDArray[np.floating] | Tensor
"""(rows, dim) unit vectors."""

# Scores are inner products in float64 of embeddings rounded to multiples of 2**-26. Every product is a multiple of
# 2**-52 and every partial sum of unit vectors is below 2, so all of them fit 53 bits and no sum is rounded. Ties
# therefore do not depend on block size, device or BLAS, and a score computed twice compares equal.
_FIXED_POINT = 2.0**26
_NORM_TOLERANCE = 0.05  # admits embeddings that were rounded to bf16 or int8


@dataclass(frozen=True)
class RetrievalRanks:
    """The rank of the right answer for each query, from 1 (best).

    Attributes:
        images: (queries,) rows of the images that have a caption, ascending.
        image_to_text: (queries,) rank of each of these images' best-ranked own caption among all captions.
        text_to_image: (captions,) rank of each caption's image among all images.
    """

    images: NDArray[np.int64]
    image_to_text: NDArray[np.int64]
    text_to_image: NDArray[np.int64]


@dataclass(frozen=True)
class DirectionScores:
    """Scores of one retrieval direction.

    Attributes:
        recall: K to R@K in percent, 0 to 100.
        median_rank: from 1.
        mean_rank: from 1.
        mrr: mean reciprocal rank, in (0, 1].
        queries: number of queries.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    mrr: float
    queries: int

    def to_dict(self) -> dict[str, float]:
        """A flat dict with the keys `r@1`, ..., `median_rank`, `mean_rank`, `mrr`, `queries`."""
        recall = {f"r@{k}": value for k, value in self.recall.items()}
        ranks = {"median_rank": self.median_rank, "mean_rank": self.mean_rank, "mrr": self.mrr}
        return recall | ranks | {"queries": self.queries}


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of both retrieval directions."""

    image_to_text: DirectionScores
    text_to_image: DirectionScores

    @property
    def rsum(self) -> float:
        """Sum of all R@K of both directions: at most 600 for three values of K."""
        return sum(self.image_to_text.recall.values()) + sum(self.text_to_image.recall.values())

    def to_dict(self) -> dict[str, float]:
        """A flat dict with stable keys: `i2t_r@1`, ..., `i2t_queries`, `t2i_r@1`, ..., `t2i_queries`, `rsum`."""
        i2t = {f"i2t_{key}": value for key, value in self.image_to_text.to_dict().items()}
        t2i = {f"t2i_{key}": value for key, value in self.text_to_image.to_dict().items()}
        return i2t | t2i | {"rsum": self.rsum}

    def rows(self) -> list[dict[str, str | float]]:
        """One table row for each direction, with `direction` and the keys of `DirectionScores.to_dict`."""
        return [
            {"direction": "image to text", **self.image_to_text.to_dict()},
            {"direction": "text to image", **self.text_to_image.to_dict()},
        ]


def retrieval_metrics(
    image_embeddings: Embeddings,
    text_embeddings: Embeddings,
    image_index: NDArray[np.integer],
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> RetrievalScores:
    """R@K, median rank, mean rank and mean reciprocal rank in both directions.

    R@K is the percentage, 0 to 100, of queries whose rank is at most K (100 when there are no more than K candidates).
    The median of an even number of ranks is the mean of the middle two. MRR is the mean of 1 / rank.

    Args:
        image_embeddings: as for `retrieval_ranks`.
        text_embeddings: as for `retrieval_ranks`.
        image_index: as for `retrieval_ranks`.
        ks: the values of K.
        block: as for `retrieval_ranks`.

    Raises:
        ValueError: as `retrieval_ranks`, or `ks` is empty or holds a number below 1.

    Two images. Caption 0 belongs to image 0 and equals its embedding; caption 1 belongs to image 1 but is closer to
    image 0. Each image ranks its own caption first, but caption 1 ranks its image second:

    >>> images = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> texts = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> scores = retrieval_metrics(images, texts, np.array([0, 1]), ks=(1, 2))
    >>> scores.image_to_text.recall, scores.text_to_image.recall, scores.text_to_image.mrr, scores.rsum
    ({1: 100.0, 2: 100.0}, {1: 50.0, 2: 100.0}, 0.75, 350.0)
    """
    return scores_from_ranks(retrieval_ranks(image_embeddings, text_embeddings, image_index, block), ks)


def scores_from_ranks(ranks: RetrievalRanks, ks: Sequence[int] = (1, 5, 10)) -> RetrievalScores:
    """Summarise ranks as `retrieval_metrics` does.

    Raises:
        ValueError: `ks` is empty or holds a number below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; it must hold at least one number, each 1 or more")

    def summary(of_queries: NDArray[np.int64]) -> DirectionScores:
        return DirectionScores(
            recall={k: 100 * float(np.mean(of_queries <= k)) for k in ks},
            median_rank=float(np.median(of_queries)),
            mean_rank=float(np.mean(of_queries)),
            mrr=float(np.mean(1 / of_queries)),
            queries=len(of_queries),
        )

    return RetrievalScores(summary(ranks.image_to_text), summary(ranks.text_to_image))


def retrieval_ranks(
    image_embeddings: Embeddings,
    text_embeddings: Embeddings,
    image_index: NDArray[np.integer],
    block: int = 1024,
) -> RetrievalRanks:
    """The rank of each image's best own caption, and of each caption's image.

    Image to text: 1 + the number of captions of other images that score at least as much as the image's best caption.
    Text to image: 1 + the number of other images that score at least as much as the caption's own. Identical texts, and
    images with equal embeddings, tie. An image without captions is a candidate but not a query.

    The similarity matrix is computed once for both directions, block by block: besides the embeddings, memory is
    O(block * (block + dim) + images + captions). Tensors are processed on their device (CPU or CUDA).

    Args:
        image_embeddings: (images, dim) unit vectors (norms within 5% of 1), of any floating-point type.
        text_embeddings: (captions, dim) unit vectors, on the same device.
        image_index: (captions,) integers in [0, images): the image that each caption describes.
        block: images and captions in a block of scores; affects speed and memory, not ranks.

    Raises:
        ValueError: an input is empty, shapes disagree, an index is out of range, or a row holds NaN or infinity or is
            not a unit vector (the message names the row).

    Two images with a caption each; both captions are closest to image 0:

    >>> ranks = retrieval_ranks(np.eye(2), np.array([[1.0, 0.0], [0.8, 0.6]]), np.array([0, 1]))
    >>> ranks.image_to_text.tolist(), ranks.text_to_image.tolist()
    ([1, 1], [1, 2])
    """
    images, texts = _as_tensor(image_embeddings), _as_tensor(text_embeddings)
    owner = _check(images, texts, image_index, block).to(images.device)  # (captions,)
    own = _own_scores(images, texts, owner, block)  # (captions,)
    best = torch.full((len(images),), -torch.inf, dtype=own.dtype, device=own.device)
    best.scatter_reduce_(0, owner, own, "amax")  # (images,)

    not_worse = torch.zeros_like(best, dtype=torch.int64)  # captions that score at least the image's best own
    text_to_image = torch.zeros_like(owner)  # images that score at least the caption's own, itself included
    for top in range(0, len(images), block):
        rows = slice(top, top + block)
        image_block = _fixed_point(images[rows])  # (block, dim)
        for left in range(0, len(texts), block):
            columns = slice(left, left + block)
            scores = image_block @ _fixed_point(texts[columns]).T  # (block, block)
            # int32: torch sums booleans into int64 many times slower, and the count of a block fits int32.
            not_worse[rows] += (scores >= best[rows, None]).sum(1, dtype=torch.int32)
            text_to_image[columns] += (scores >= own[columns]).sum(0, dtype=torch.int32)

    # An image's own captions that score its best were counted, but none is ranked before another.
    own_not_worse = torch.bincount(owner[own >= best[owner]], minlength=len(images))  # (images,)
    queries = torch.unique(owner)  # ascending
    image_to_text = (1 + not_worse - own_not_worse)[queries]
    return RetrievalRanks(queries.cpu().numpy(), image_to_text.cpu().numpy(), text_to_image.cpu().numpy())


def _as_tensor(embeddings: Embeddings) -> Tensor:
    if isinstance(embeddings, np.ndarray) and not embeddings.flags.writeable:
        embeddings = embeddings.copy()  # torch warns about read-only memory
    return torch.as_tensor(embeddings).detach()


def _check(images: Tensor, texts: Tensor, image_index: NDArray[np.integer], block: int) -> Tensor:
    """Validate the arguments of `retrieval_ranks`; returns `image_index` as a tensor (captions,) int64."""
    for name, vectors in (("image", images), ("text", texts)):
        if vectors.ndim != 2 or not vectors.numel():
            raise ValueError(f"{name} embeddings are {tuple(vectors.shape)}; they must be (rows, dim) and not empty")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"image embeddings have {images.shape[1]} dimensions and text embeddings {texts.shape[1]}")
    index = np.asarray(image_index)
    if index.shape != (len(texts),) or index.dtype.kind not in "iu":
        raise ValueError(f"image_index is {index.shape} {index.dtype}; it must hold an integer for each caption")
    if index.min() < 0 or index.max() >= len(images):
        raise ValueError(f"image_index spans {index.min()} to {index.max()}; there are {len(images)} images")
    if block < 1:
        raise ValueError(f"block is {block}; it must be 1 or more")
    _check_unit(images, "image")
    _check_unit(texts, "text")
    return torch.from_numpy(index.astype(np.int64))


def _check_unit(vectors: Tensor, name: str) -> None:
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.promote_types(vectors.dtype, torch.float32))  # (rows,)
    bad = ~((norms - 1).abs() <= _NORM_TOLERANCE)  # NaN compares false and so counts as bad
    if bad.any():
        row = int(bad.nonzero()[0])
        norm = float(norms[row])
        fault = f"has norm {norm:.4g}, not 1: normalize it" if np.isfinite(norm) else "holds NaN or infinity"
        raise ValueError(f"row {row} of the {name} embeddings {fault} ({int(bad.sum())} such rows of {len(vectors)})")


def _fixed_point(vectors: Tensor) -> Tensor:
    """Embeddings as integers in float64, (rows, dim), so that sums of products are exact."""
    return (vectors.double() * _FIXED_POINT).round_()


def _own_scores(images: Tensor, texts: Tensor, owner: Tensor, block: int) -> Tensor:
    """The score of each caption with its own image: (captions,)."""
    parts = []
    for left in range(0, len(texts), block):
        columns = slice(left, left + block)
        pairs = _fixed_point(images[owner[columns]]) * _fixed_point(texts[columns])  # (block, dim)
        parts.append(pairs.sum(dim=1))
    return torch.cat(parts)
