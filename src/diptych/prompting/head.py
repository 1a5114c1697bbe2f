"""The prompt head: from image features to the embedding of the image's prompt."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class PromptHead(nn.Module):
    """An MLP from image features (batch, width) to unit vectors of a text encoder's space (batch, dim).

    Features are standardised by the mean and standard deviation of the training images (`fit`).

    Args:
        width: Number of image features.
        dim: Dimension of the text encoder's space.
        hidden: Width of the hidden layer.
        dropout: Dropout probability.
    """

    def __init__(self, width: int, dim: int, hidden: int = 512, dropout: float = 0.3) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.body = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )

    def fit(self, features: np.ndarray) -> None:
        """Set mean and standard deviation from (images, width) features."""
        values = np.asarray(features, np.float32)
        self.mean.copy_(torch.from_numpy(values.mean(0)))
        self.spread.copy_(torch.from_numpy(values.std(0) + 1e-4))

    def forward(self, features: Tensor) -> Tensor:
        """Image features (batch, width) to unit vectors (batch, dim)."""
        return functional.normalize(self.body((features - self.mean) / self.spread), dim=-1)
