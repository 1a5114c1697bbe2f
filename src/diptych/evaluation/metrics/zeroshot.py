"""Zero-shot classification metrics in CLIP's protocol (Radford et al. 2021): class embeddings and top-K accuracy.

Reference implementation: `build_zero_shot_classifier` and the zero-shot evaluation of open_clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.evaluation.metrics.retrieval import Embeddings, retrieval_ranks
from diptych.models.cosine import normalize


@dataclass(frozen=True)
class ZeroShotScores:
    """Zero-shot classification accuracy, in percent.

    Attributes:
        accuracy: K to the percentage of images whose class is among the K nearest.
        mean_per_class: top-1 accuracy of each class, averaged over the classes that have images.
        images: number of images.
        classes: number of candidate classes, those without images included.
    """

    accuracy: dict[int, float]
    mean_per_class: float
    images: int
    classes: int

    def to_dict(self) -> dict[str, float]:
        """A flat dict with the keys `top1`, `top5`, `mean_per_class`, `images`, `classes`."""
        return {
            **{f"top{k}": value for k, value in self.accuracy.items()},
            **{"mean_per_class": self.mean_per_class, "images": self.images, "classes": self.classes},
        }


def mean_class_embeddings(prompt_embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """One unit vector for each class: its prompts' embeddings are normalized, averaged, and normalized again.

    Args:
        prompt_embeddings: (classes, templates, dim), of any length above 0.

    Returns:
        (classes, dim).

    Raises:
        ValueError: the shape is not this, or an embedding or a mean is zero, NaN or infinite.

    One class and two templates: (2, 0) is normalized to (1, 0); its mean with (0, 1) is scaled to length 1.

    >>> mean_class_embeddings(np.array([[[2.0, 0.0], [0.0, 1.0]]])).astype(float).round(4).tolist()
    [[0.7071, 0.7071]]
    """
    prompts = np.asarray(prompt_embeddings, np.float64)
    if prompts.ndim != 3 or not prompts.size:
        raise ValueError(f"prompt embeddings are {prompts.shape}; they must be (classes, templates, dim) and not empty")
    return _checked_normalize(_checked_normalize(prompts).mean(axis=1)).astype(np.float32)


def _checked_normalize(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1)
    if not (np.isfinite(lengths) & (lengths > 1e-12)).all():
        raise ValueError("a class embedding is zero, NaN or infinite; check the prompts that it was computed from")
    return normalize(vectors)


def zeroshot_ranks(
    image_embeddings: Embeddings,
    class_embeddings: Embeddings,
    labels: NDArray[np.integer],
) -> NDArray[np.int64]:
    """The rank of each image's own class, from 1 to the number of classes: (images,).

    It is 1 + the number of other classes that score at least as much, so ties count against the model: of two classes
    with the same name, neither is ranked first. Computed block by block as text-to-image retrieval with the images as
    queries and the classes as candidates.

    Args:
        image_embeddings: (images, dim) unit vectors.
        class_embeddings: (classes, dim) unit vectors.
        labels: (images,) integers in [0, classes).

    Raises:
        ValueError: as `retrieval_ranks`, whose messages say "image" for a class and "text" for an image.

    >>> zeroshot_ranks(np.array([[0.6, 0.8]]), np.eye(2), np.array([0])).tolist()
    [2]
    """
    return retrieval_ranks(class_embeddings, image_embeddings, labels).text_to_image


def zeroshot_metrics(
    image_embeddings: Embeddings,
    class_embeddings: Embeddings,
    labels: NDArray[np.integer],
    ks: Sequence[int] = (1, 5),
) -> ZeroShotScores:
    """Top-K accuracy and mean per-class accuracy.

    Args:
        image_embeddings: as for `zeroshot_ranks`.
        class_embeddings: as for `zeroshot_ranks`.
        labels: as for `zeroshot_ranks`.
        ks: the values of K.

    Raises:
        ValueError: as `zeroshot_ranks`, or `ks` is empty or holds a number below 1.

    Three images and two classes. The first two images are of class 0, and only the first is closest to it:

    >>> images = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> scores = zeroshot_metrics(images, np.eye(2), np.array([0, 0, 1]), ks=(1, 2))
    >>> {k: round(value, 1) for k, value in scores.accuracy.items()}, scores.mean_per_class
    ({1: 66.7, 2: 100.0}, 75.0)
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; it must hold at least one number, each 1 or more")
    ranks = zeroshot_ranks(image_embeddings, class_embeddings, labels)
    counts = np.bincount(labels, minlength=len(class_embeddings))  # (classes,)
    hits = np.bincount(labels, weights=ranks == 1, minlength=len(class_embeddings))  # (classes,)
    return ZeroShotScores(
        accuracy={k: 100 * float((ranks <= k).mean()) for k in ks},
        mean_per_class=100 * float((hits[counts > 0] / counts[counts > 0]).mean()),
        images=len(ranks),
        classes=len(class_embeddings),
    )
