"""Evaluators: built once from a data set, called with what a model made of it; they return numbers, write nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from diptych.doctor import Report, sound
from diptych.dual import DualEncoder
from diptych.embed import picture_vectors
from diptych.errors import DataError
from diptych.metrics.retrieval import RetrievalScores, retrieval_metrics
from diptych.pairs import Pairs
from diptych.progress import Progress, silent


class RetrievalEvaluator:
    """Measures a dual encoder on `pairs`, image to text and text to image (`diptych.metrics.retrieval`).

    Embed `evaluator.pairs`, one vector a picture in the order of its rows, and `evaluator.captions`, one vector a
    caption, then call the evaluator with both.

    Raises:
        DataError: the pairs hold no caption.
    """

    def __init__(self, pairs: Pairs, ks: Sequence[int] = (1, 5, 10), block: int = 1024) -> None:
        self.pairs = pairs
        self.captions, self.image_index = pairs.flat_captions()
        if not self.captions:
            raise DataError(f"none of the {len(pairs)} pictures has a caption; retrieval needs at least one")
        self.ks = tuple(ks)
        self.block = block

    def __call__(self, image_embeddings: np.ndarray | Tensor, text_embeddings: np.ndarray | Tensor) -> RetrievalScores:
        """Score (pictures, dim) and (captions, dim) unit vectors.

        Raises:
            ValueError: their numbers are not those of the pictures and captions, or `retrieval_ranks` refuses them.
        """
        if (len(image_embeddings), len(text_embeddings)) != (len(self.pairs), len(self.captions)):
            raise ValueError(
                f"{len(image_embeddings)} image and {len(text_embeddings)} text embeddings for "
                f"{len(self.pairs)} pictures and {len(self.captions)} captions; embed each once, in order"
            )
        return retrieval_metrics(image_embeddings, text_embeddings, self.image_index, self.ks, self.block)


def evaluate_retrieval(
    model: DualEncoder, pairs: Pairs, *, max_bad_share: float = 0.1, progress: Progress = silent
) -> tuple[RetrievalScores, Report]:
    """Embed a data set with `model` and score it; pictures that cannot be used are left out, and reported.

    Picture vectors are kept on disk under the identities of model and data, and used again.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    evaluator = RetrievalEvaluator(usable)
    image_vectors = picture_vectors(model, usable, progress=progress)
    return evaluator(image_vectors, model.encode_texts(evaluator.captions)), left_out
