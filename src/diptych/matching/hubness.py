"""Hubness: some pictures are near to every text, and come first for texts that they do not match.

A matcher keeps a sample of the training part's vectors, asks how near a picture is to those texts in general, and takes
that off: the inverted softmax (Smith et al. 2017), known in retrieval as querybank normalisation (Bogolin et al. 2022).
The same holds for texts that are near to every picture ("outside").
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 1024  # vectors in a bank: 0.8 MB for 384 dimensions in half precision
SHARPNESS = 1.0  # in logit scales of the dual encoder: its own temperature


class Banks(nn.Module):
    """Vectors of pictures and of texts, (size, dim) each, that stand for all others."""

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
        """Banks of at most `size` of the given unit vectors, drawn at random."""
        random = np.random.default_rng([seed, 4])

        def bank(vectors: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(vectors[random.permutation(len(vectors))[:size]], np.float32))

        return cls(bank(images), bank(texts), sharpness)

    def hubness(self, modality: str, vectors: Tensor) -> Tensor:
        """How near (items, dim) vectors are to the bank of the other modality: (items,) on the scale of cosines.

        log of the mean of exp(sharpness * cosine), divided by the sharpness: between the mean and the largest cosine.
        """
        bank = self.text if modality == "image" else self.image
        cosines = vectors @ bank.T  # (items, size)
        return (torch.logsumexp(self.sharpness * cosines, dim=1) - math.log(len(bank))) / self.sharpness
