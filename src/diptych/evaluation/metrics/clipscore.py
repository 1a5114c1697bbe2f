"""CLIPScore and RefCLIPScore (Hessel et al. 2021, EMNLP): similarity of a caption to its image in a dual encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.models.cosine import normalize

PREFIX = "A photo depicts "  # prepended to every caption and reference before it is embedded
WEIGHT = 2.5


def clip_score(image_embeddings: NDArray[np.floating], caption_embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """CLIPScore of each image and its caption, 2.5 * max(cosine, 0): (images,) in [0, 2.5], in practice below 1.

    Scores of different dual encoders are not comparable, so report which one was used. The published scores are of
    OpenAI's ViT-B/32.

    Args:
        image_embeddings: (images, dim) unit vectors.
        caption_embeddings: (images, dim) unit vectors of the captions, each with `PREFIX` prepended.

    Raises:
        ValueError: an input is empty, shapes differ, or a row is not a unit vector.

    Cosines of 0.6 and -1:

    >>> clip_score(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.6, 0.8], [-1.0, 0.0]])).tolist()
    [1.5, 0.0]
    """
    images, captions = _unit_vectors(image_embeddings, "image"), _unit_vectors(caption_embeddings, "caption")
    if images.shape != captions.shape:
        raise ValueError(
            f"image embeddings are {images.shape} and caption embeddings {captions.shape}; the shapes must be equal"
        )
    return WEIGHT * np.maximum((images * captions).sum(axis=1), 0)


def ref_clip_score(
    image_embeddings: NDArray[np.floating],
    caption_embeddings: NDArray[np.floating],
    reference_embeddings: NDArray[np.floating],
    reference_index: NDArray[np.integer] | Sequence[int],
) -> NDArray[np.float64]:
    """RefCLIPScore: harmonic mean of CLIPScore and the caption's largest cosine to a reference (at least 0): (images,).

    It is 0 if either is 0.

    Args:
        image_embeddings: as for `clip_score`.
        caption_embeddings: as for `clip_score`.
        reference_embeddings: (references, dim) unit vectors, each text with `PREFIX` prepended.
        reference_index: (references,) integers: the image of each reference; every image has at least one.

    Raises:
        ValueError: as `clip_score`, or an image has no reference.

    A CLIPScore of 1.5 and references at cosines of 0.6 and 0: 2 * 1.5 * 0.6 / (1.5 + 0.6).

    >>> references = np.array([[1.0, 0.0], [-0.8, 0.6]])
    >>> scores = ref_clip_score(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]), references, [0, 0])
    >>> scores.round(4).tolist()
    [0.8571]
    """
    to_image = clip_score(image_embeddings, caption_embeddings)
    captions = _unit_vectors(caption_embeddings, "caption")
    references = _unit_vectors(reference_embeddings, "reference")
    index = np.asarray(reference_index, np.int64)
    if index.shape != (len(references),) or set(index.tolist()) != set(range(len(captions))):
        raise ValueError(
            f"reference_index is {index.shape} for {len(references)} references of {len(captions)} images; it must "
            "hold the image of each reference, and every image must have one"
        )
    cosines = (captions[index] * references).sum(axis=1)  # (references,)
    best = np.zeros(len(captions))
    np.maximum.at(best, index, cosines)
    total = to_image + best
    return np.divide(2 * to_image * best, total, out=np.zeros_like(total), where=total > 0)


def _unit_vectors(embeddings: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"{name} embeddings are {vectors.shape}; they must be (rows, dim) and not empty")
    is_unit = np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-2  # False for NaN
    if not is_unit.all():
        raise ValueError(f"row {int(np.argmin(is_unit))} of the {name} embeddings is not a unit vector")
    return normalize(vectors)
