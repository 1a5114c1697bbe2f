"""Hubness: how similar an image is to texts in general, or a text to images in general.

Some images are close to every text and rank first for texts that they do not match. A matcher keeps a sample of
training embeddings, measures the similarity to all of them, and subtracts it in the calibration. This is the inverted
softmax (Smith et al. 2017), known in retrieval as querybank normalisation (Bogolin et al. 2022), applied to both sides.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 1024
"""Embeddings in a bank: 0.8 MB for 384 dimensions in half precision."""

SHARPNESS = 1.0
"""Default inverse temperature, in units of the dual encoder's logit scale."""


class Banks(nn.Module):
    """Samples of image and text embeddings, (size, dim) each, against which hubness is measured.

    Args:
        image: Image embeddings.
        text: Text embeddings.
        sharpness: Inverse temperature of the soft maximum.
    """

    image: Tensor
    text: Tensor

    def __init__(self, image: Tensor, text: Tensor, sharpness: float) -> None:
        super().__init__()
        self.register_buffer("image", image)
        self.register_buffer("text", text)
        self.sharpness = sharpness

    @classmethod
    def sample(
        cls, images: np.ndarray, texts: np.ndarray, sharpness: float, *, size: int = SIZE, seed: int = 0
    ) -> Banks:
        """Banks of at most `size` embeddings, drawn at random from (images, dim) and (texts, dim) unit vectors."""
        random = np.random.default_rng([seed, 4])

        def bank(embeddings: np.ndarray) -> Tensor:
            rows = random.permutation(len(embeddings))[:size]
            return torch.from_numpy(np.array(embeddings[rows], np.float32))

        return cls(bank(images), bank(texts), sharpness)

    def hubness(self, modality: str, embeddings: Tensor) -> Tensor:
        """Similarity of (items, dim) embeddings to the bank of the other modality: (items,).

        It is log(mean(exp(sharpness * cosine))) / sharpness, which lies between the mean and the maximum cosine.
        """
        bank = self.text if modality == "image" else self.image
        cosines = embeddings @ bank.T  # (items, size)
        return (torch.logsumexp(self.sharpness * cosines, dim=1) - math.log(len(bank))) / self.sharpness
