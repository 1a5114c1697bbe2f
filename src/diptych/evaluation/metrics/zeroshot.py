"""Zero-shot classification in CLIP's protocol (Radford et al. 2021): class vectors from prompts, and accuracy.

Reference implementation: `build_zero_shot_classifier` and the zero-shot evaluation of open_clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from diptych.evaluation.metrics.retrieval import retrieval_ranks


@dataclass(frozen=True)
class ZeroShotScores:
    """How often the right class came among the first.

    `accuracy` maps K to the percentage, 0 to 100, of pictures whose class is among the K nearest;
    `mean_per_class` is the mean over classes, each weighing the same, of the percentage of their pictures whose
    class came first. Classes without pictures do not count there, but they do stand among the candidates.
    """

    accuracy: dict[int, float]
    mean_per_class: float
    pictures: int
    classes: int

    def as_dict(self) -> dict[str, float]:
        """Flat, with the keys `top1`, `top5`, `mean_per_class`, `pictures`, `classes`."""
        accuracy = {f"top{k}": value for k, value in self.accuracy.items()}
        rest = {"mean_per_class": self.mean_per_class, "pictures": self.pictures, "classes": self.classes}
        return accuracy | rest


def class_vectors(prompt_embeddings: np.ndarray) -> np.ndarray:
    """One unit vector a class: the mean of its prompts' vectors, each brought to unit length first, then the mean.

    Args:
        prompt_embeddings: (classes, templates, dim), of any length above 0.

    Returns:
        (classes, dim) float32.

    Raises:
        ValueError: the shape is another, or a vector (a prompt's, or a mean) has no direction.

    One class and two templates: (2, 0) counts as (1, 0), and the mean of that and (0, 1) is stretched to length 1.

    >>> class_vectors(np.array([[[2.0, 0.0], [0.0, 1.0]]])).astype(float).round(4).tolist()
    [[0.7071, 0.7071]]
    """
    prompts = np.asarray(prompt_embeddings, np.float64)
    if prompts.ndim != 3 or not prompts.size:
        raise ValueError(f"prompt embeddings are {prompts.shape}; they must be (classes, templates, dim) and not empty")
    return _unit(_unit(prompts).mean(axis=1)).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 1e-12)).all():
        raise ValueError("a vector is zero, NaN or infinite and so points nowhere; look at the prompts it came from")
    return vectors / lengths


def zeroshot_ranks(
    image_embeddings: np.ndarray | Tensor, class_embeddings: np.ndarray | Tensor, labels: np.ndarray
) -> np.ndarray:
    """The rank of each picture's own class, from 1 to the number of classes: (pictures,) int64.

    It is 1 + the other classes that score at least the same, so ties count against the model: a class whose name
    stands twice is never found first. This is text-to-image retrieval with pictures as queries and classes as what is
    found, and it is computed as that, in blocks.

    Args:
        image_embeddings: (pictures, dim) unit vectors.
        class_embeddings: (classes, dim) unit vectors.
        labels: (pictures,) integers in [0, classes).

    Raises:
        ValueError: what `retrieval_ranks` refuses; it calls classes image, and pictures text embeddings.
    """
    return retrieval_ranks(class_embeddings, image_embeddings, labels).text_to_image


def zeroshot_metrics(
    image_embeddings: np.ndarray | Tensor,
    class_embeddings: np.ndarray | Tensor,
    labels: np.ndarray,
    ks: Sequence[int] = (1, 5),
) -> ZeroShotScores:
    """Top-K accuracy and mean per-class accuracy, from the ranks of `zeroshot_ranks` (arguments there).

    Raises:
        ValueError: what `zeroshot_ranks` refuses, or a K under 1.

    Three pictures and two classes. The first two pictures are of class 0, and only the first is nearest to it:

    >>> pictures = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> scores = zeroshot_metrics(pictures, np.eye(2), np.array([0, 0, 1]), ks=(1, 2))
    >>> {k: round(value, 1) for k, value in scores.accuracy.items()}, scores.mean_per_class
    ({1: 66.7, 2: 100.0}, 75.0)
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; give at least one number, each 1 or more")
    ranks = zeroshot_ranks(image_embeddings, class_embeddings, labels)
    counts = np.bincount(labels, minlength=len(class_embeddings))  # (classes,)
    hits = np.bincount(labels, weights=ranks == 1, minlength=len(class_embeddings))  # (classes,)
    return ZeroShotScores(
        accuracy={k: 100 * float((ranks <= k).mean()) for k in ks},
        mean_per_class=100 * float((hits[counts > 0] / counts[counts > 0]).mean()),
        pictures=len(ranks),
        classes=len(class_embeddings),
    )
