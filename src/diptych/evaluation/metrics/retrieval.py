"""Image-text retrieval, both ways, in the protocol of Karpathy & Fei-Fei (2015): ranks, R@K and their intervals.

Image to text: each picture queries all captions; its rank is that of its best-placed own caption, and its other
captions never count as standing before that one. Text to image: each caption queries all pictures, each picture once.

Ties are broken pessimistically: whatever scores the same as the right answer counts as ranked before it, so that a
model which gives everything one vector ranks last everywhere instead of perfectly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Scores are inner products of vectors rounded to multiples of 2**-26, taken in float64: every product is a multiple of
# 2**-52 and every partial sum of unit vectors stays under 2, so that all of it fits 53 bits and no sum is ever rounded.
# Ties are then ties whatever the block, the device and the BLAS, and a score may be computed twice and compare equal.
_FIXED_POINT = 2.0**26
_NORM_TOLERANCE = 0.05  # admits vectors that were rounded to bf16 or int8


@dataclass(frozen=True)
class RetrievalRanks:
    """Where each query found its answer; 1 is best.

    `pictures` (queries,) are the pictures that have a caption, ascending, and `image_to_text` (queries,) their ranks
    among all captions; `text_to_image` (captions,) are the captions' ranks among all pictures. All int64.
    """

    pictures: np.ndarray
    image_to_text: np.ndarray
    text_to_image: np.ndarray


@dataclass(frozen=True)
class DirectionScores:
    """One direction: `recall` maps K to R@K in percent, 0 to 100; ranks start at 1; `mrr` is in (0, 1]."""

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    mrr: float
    queries: int

    def as_dict(self) -> dict[str, float]:
        """Flat, with the keys `r@1`, ..., `median_rank`, `mean_rank`, `mrr`, `queries`."""
        recall = {f"r@{k}": value for k, value in self.recall.items()}
        ranks = {"median_rank": self.median_rank, "mean_rank": self.mean_rank, "mrr": self.mrr}
        return recall | ranks | {"queries": self.queries}


@dataclass(frozen=True)
class RetrievalScores:
    """Both directions of one evaluation."""

    image_to_text: DirectionScores
    text_to_image: DirectionScores

    @property
    def rsum(self) -> float:
        """The sum of every R@K of both directions: at most 600 for the usual three K."""
        return sum(self.image_to_text.recall.values()) + sum(self.text_to_image.recall.values())

    def as_dict(self) -> dict[str, float]:
        """Flat, with stable keys: `i2t_r@1`, ..., `i2t_queries`, then `t2i_r@1`, ..., `t2i_queries`, then `rsum`."""
        i2t = {f"i2t_{key}": value for key, value in self.image_to_text.as_dict().items()}
        t2i = {f"t2i_{key}": value for key, value in self.text_to_image.as_dict().items()}
        return i2t | t2i | {"rsum": self.rsum}

    def rows(self) -> list[dict[str, str | float]]:
        """For a table: one row a direction, with `direction` and the keys of `DirectionScores.as_dict`."""
        return [
            {"direction": "image to text", **self.image_to_text.as_dict()},
            {"direction": "text to image", **self.text_to_image.as_dict()},
        ]


def retrieval_metrics(
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    image_index: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> RetrievalScores:
    """R@K, median rank, mean rank and MRR in both directions, from the ranks of `retrieval_ranks` (arguments there).

    R@K is the percentage, 0 to 100, of queries whose rank is at most K (100 when there are no more than K candidates).
    The median of an even number of ranks is the mean of the middle two. MRR is the mean of 1 / rank.

    Raises:
        ValueError: what `retrieval_ranks` refuses, or `ks` is empty or holds a number under 1.

    Two pictures; caption 0 (of picture 0) points at it, and caption 1 (of picture 1) points nearer to picture 0. So
    picture 0 finds caption 0 first and picture 1 finds caption 1 first, but caption 1 finds its picture second:

    >>> images = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> texts = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> scores = retrieval_metrics(images, texts, np.array([0, 1]), ks=(1, 2))
    >>> scores.image_to_text.recall, scores.text_to_image.recall, scores.text_to_image.mrr, scores.rsum
    ({1: 100.0, 2: 100.0}, {1: 50.0, 2: 100.0}, 0.75, 350.0)
    """
    return scores_from_ranks(retrieval_ranks(image_embeddings, text_embeddings, image_index, block), ks)


def scores_from_ranks(ranks: RetrievalRanks, ks: Sequence[int] = (1, 5, 10)) -> RetrievalScores:
    """Summarise ranks; see `retrieval_metrics` for what each number is."""
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; it must hold at least one number, each 1 or more")

    def direction(found: np.ndarray) -> DirectionScores:
        return DirectionScores(
            recall={k: 100 * float(np.mean(found <= k)) for k in ks},
            median_rank=float(np.median(found)),
            mean_rank=float(np.mean(found)),
            mrr=float(np.mean(1 / found)),
            queries=len(found),
        )

    return RetrievalScores(direction(ranks.image_to_text), direction(ranks.text_to_image))


def retrieval_ranks(
    image_embeddings: np.ndarray | Tensor,
    text_embeddings: np.ndarray | Tensor,
    image_index: np.ndarray,
    block: int = 1024,
) -> RetrievalRanks:
    """The rank at which every picture finds a caption of its own, and every caption its picture.

    Picture to caption: 1 + the captions of other pictures that score at least what the picture's best caption scores.
    Caption to picture: 1 + the other pictures that score at least what the caption's own picture scores. Identical
    texts, or pictures with one vector, tie. A picture without captions asks nothing, but captions may find it.

    The similarity matrix is visited once for both directions and never held: besides the embeddings as they came,
    memory is O(block * (block + dim) + pictures + captions). Tensors are worked on where they lie (CPU or CUDA).

    Args:
        image_embeddings: (pictures, dim) unit vectors (norms within 5% of 1), one for each picture, of any float type.
        text_embeddings: (captions, dim) unit vectors, on the same device.
        image_index: (captions,) integers in [0, pictures): the picture that each caption describes.
        block: pictures and captions to a block of scores; it changes speed and memory, and no rank.

    Raises:
        ValueError: something is empty or shapes disagree, an index is out of range, or a row holds NaN or infinity or
            is no unit vector (the message names the row).
    """
    images, texts = _as_tensor(image_embeddings), _as_tensor(text_embeddings)
    owner = _check(images, texts, image_index, block).to(images.device)  # (captions,)
    own = _own_scores(images, texts, owner, block)  # (captions,)
    best = torch.full((len(images),), -torch.inf, dtype=own.dtype, device=own.device)
    best.scatter_reduce_(0, owner, own, "amax")  # (pictures,)

    not_worse = torch.zeros_like(best, dtype=torch.int64)  # captions that score at least the picture's best own
    text_to_image = torch.zeros_like(owner)  # pictures that score at least the caption's own, itself among them
    for top in range(0, len(images), block):
        rows = slice(top, top + block)
        image_block = _fixed_point(images[rows])  # (block, dim)
        for left in range(0, len(texts), block):
            columns = slice(left, left + block)
            scores = image_block @ _fixed_point(texts[columns]).T  # (block, block)
            # An int32 sum: torch sums booleans into int64 many times slower, and a block is no larger than that.
            not_worse[rows] += (scores >= best[rows, None]).sum(1, dtype=torch.int32)
            text_to_image[columns] += (scores >= own[columns]).sum(0, dtype=torch.int32)

    # A picture's own captions that score its best: among those counted, but none stands before another.
    own_not_worse = torch.bincount(owner[own >= best[owner]], minlength=len(images))  # (pictures,)
    pictures = torch.unique(owner)  # ascending
    image_to_text = (1 + not_worse - own_not_worse)[pictures]
    return RetrievalRanks(pictures.cpu().numpy(), image_to_text.cpu().numpy(), text_to_image.cpu().numpy())


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """A percentile bootstrap interval (Efron 1979) that draws whole groups, since values of one group hang together.

    The captions of a picture are no independent trials: pass `ranks.text_to_image <= 1` with `image_index` as the
    groups, or `ranks.image_to_text <= 1` with `ranks.pictures`, and pictures are drawn with all that is theirs. What is
    drawn is queries; the candidates that they searched stay as they were.

    Args:
        values: (n,) one number a query.
        groups: (n,) integers, equal for values to be drawn together.
        statistic: from a resample, in no particular order, to a number.
        confidence: in (0, 1): the share of resamples whose statistic falls inside.
        resamples: how many are drawn.
        seed: the same arguments give the same interval.

    Returns:
        Its lower and its upper end.

    Raises:
        ValueError: `values` is empty, or `groups` is not of its length.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"{len(values)} values and {len(groups)} groups; give one group a value, and at least one")
    by_group = np.asarray(values)[np.argsort(groups, kind="stable")]
    counts = np.unique(groups, return_counts=True)[1]
    starts = np.cumsum(counts) - counts  # (groups,)
    generator = np.random.default_rng(seed)

    def resample() -> np.ndarray:
        drawn = generator.integers(len(counts), size=len(counts))
        lengths = counts[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return by_group[np.repeat(starts[drawn], lengths) + within]

    statistics = [statistic(resample()) for _ in range(resamples)]
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _as_tensor(embeddings: np.ndarray | Tensor) -> Tensor:
    if isinstance(embeddings, np.ndarray) and not embeddings.flags.writeable:
        embeddings = embeddings.copy()  # torch warns of read-only memory
    return torch.as_tensor(embeddings).detach()


def _check(images: Tensor, texts: Tensor, image_index: np.ndarray, block: int) -> Tensor:
    """Refuse what cannot be ranked; the index of each caption's picture as a tensor (captions,) int64."""
    for name, vectors in (("image", images), ("text", texts)):
        if vectors.ndim != 2 or not vectors.numel():
            raise ValueError(f"{name} embeddings are {tuple(vectors.shape)}; they must be (rows, dim) and not empty")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"image embeddings have {images.shape[1]} dimensions and text embeddings {texts.shape[1]}")
    index = np.asarray(image_index)
    if index.shape != (len(texts),) or index.dtype.kind not in "iu":
        raise ValueError(f"image_index is {index.shape} {index.dtype}; it must hold an integer for each caption")
    if index.min() < 0 or index.max() >= len(images):
        raise ValueError(f"image_index spans {index.min()} to {index.max()}; there are {len(images)} pictures")
    if block < 1:
        raise ValueError(f"block is {block}; it must be 1 or more")
    _check_unit(images, "image")
    _check_unit(texts, "text")
    return torch.from_numpy(index.astype(np.int64))


def _check_unit(vectors: Tensor, name: str) -> None:
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.promote_types(vectors.dtype, torch.float32))  # (rows,)
    bad = ~((norms - 1).abs() <= _NORM_TOLERANCE)  # NaN compares false, and so is bad
    if bad.any():
        row = int(bad.nonzero()[0])
        norm = float(norms[row])
        fault = f"has norm {norm:.4g}, not 1: normalise it" if np.isfinite(norm) else "holds NaN or infinity"
        raise ValueError(f"row {row} of the {name} embeddings {fault} ({int(bad.sum())} such rows of {len(vectors)})")


def _fixed_point(vectors: Tensor) -> Tensor:
    """(rows, dim) as integers in float64, so that products sum without rounding."""
    return (vectors.double() * _FIXED_POINT).round_()


def _own_scores(images: Tensor, texts: Tensor, owner: Tensor, block: int) -> Tensor:
    """What each caption scores with its own picture: (captions,)."""
    parts = []
    for left in range(0, len(texts), block):
        columns = slice(left, left + block)
        pairs = _fixed_point(images[owner[columns]]) * _fixed_point(texts[columns])  # (block, dim)
        parts.append(pairs.sum(dim=1))
    return torch.cat(parts)
