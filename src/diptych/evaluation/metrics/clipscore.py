"""CLIPScore and RefCLIPScore (Hessel et al. 2021, EMNLP): how near a caption is to its picture in a dual encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PREFIX = "A photo depicts "  # stands before every caption and reference, before it is embedded
WEIGHT = 2.5


def clip_score(image_embeddings: np.ndarray, caption_embeddings: np.ndarray) -> np.ndarray:
    """2.5 * max(cosine, 0) of each picture and its caption: (pictures,), in [0, 2.5] and in practice below 1.

    Scores of different dual encoders cannot be compared: say which one it was. The published ones are of OpenAI's
    ViT-B/32.

    Args:
        image_embeddings: (pictures, dim) unit vectors.
        caption_embeddings: (pictures, dim) unit vectors of the captions, each with `PREFIX` before it.

    Raises:
        ValueError: shapes differ, or vectors are not of unit length.

    Cosines of 0.6 and -1:

    >>> clip_score(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.6, 0.8], [-1.0, 0.0]])).tolist()
    [1.5, 0.0]
    """
    images, captions = _units(image_embeddings, "image"), _units(caption_embeddings, "caption")
    if images.shape != captions.shape:
        raise ValueError(f"image embeddings are {images.shape} and caption embeddings {captions.shape}; give one each")
    return WEIGHT * np.maximum((images * captions).sum(axis=1), 0)


def ref_clip_score(
    image_embeddings: np.ndarray,
    caption_embeddings: np.ndarray,
    reference_embeddings: np.ndarray,
    reference_index: np.ndarray | Sequence[int],
) -> np.ndarray:
    """The harmonic mean of CLIPScore and the best cosine, at least 0, of caption and references: (pictures,).

    It is 0 where either is.

    Args:
        image_embeddings: as `clip_score`.
        caption_embeddings: as `clip_score`.
        reference_embeddings: (references, dim) unit vectors, each text with `PREFIX` before it.
        reference_index: (references,) which picture each is of; every picture has at least one.

    Raises:
        ValueError: as `clip_score`, or a picture has no reference.

    A CLIPScore of 1.5 and references at cosines of 0.6 and 0: 2 * 1.5 * 0.6 / (1.5 + 0.6).

    >>> references = np.array([[1.0, 0.0], [-0.8, 0.6]])
    >>> scores = ref_clip_score(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]), references, [0, 0])
    >>> scores.round(4).tolist()
    [0.8571]
    """
    to_image = clip_score(image_embeddings, caption_embeddings)
    captions, references = _units(caption_embeddings, "caption"), _units(reference_embeddings, "reference")
    index = np.asarray(reference_index, np.int64)
    if index.shape != (len(references),) or set(index.tolist()) != set(range(len(captions))):
        raise ValueError(
            f"{len(references)} references for {len(captions)} pictures, index {index.shape}; say of each reference "
            "which picture it is of, and give every picture one"
        )
    cosines = (captions[index] * references).sum(axis=1)  # (references,)
    best = np.zeros(len(captions))
    np.maximum.at(best, index, cosines)
    total = to_image + best
    return np.divide(2 * to_image * best, total, out=np.zeros_like(total), where=total > 0)


def _units(embeddings: np.ndarray, name: str) -> np.ndarray:
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"{name} embeddings are {vectors.shape}; they must be (rows, dim) and not empty")
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1) < 1e-2).all():  # NaN is not
        raise ValueError(f"row {int(np.argmin(np.abs(lengths - 1) < 1e-2))} of the {name} embeddings is no unit vector")
    return vectors / lengths[:, None]
