"""Encoded images and texts: what a matcher keeps of each side to compare it with the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.matching.heads import Side


@dataclass
class Encoded:
    """Images or texts that a matcher has encoded.

    Attributes:
        embeddings: (items, dim) embeddings.
        hubness: (items,) mean similarity to the bank of the other modality.
        side: What the matcher's head made of them.
    """

    embeddings: Tensor
    hubness: Tensor
    side: Side

    def __len__(self) -> int:
        """The number of items."""
        return len(self.embeddings)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Several batches as one; token states are padded to the longest text."""
        sides = zip(*(part.side for part in parts), strict=True)
        return cls(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.hubness for part in parts]),
            tuple(_padded(list(tensors)) for tensors in sides),
        )

    def take(self, rows: np.ndarray | Sequence[int]) -> Encoded:
        """The items at `rows`, in that order."""
        index = torch.as_tensor(np.asarray(rows, np.int64), device=self.embeddings.device)
        return Encoded(self.embeddings[index], self.hubness[index], tuple(tensor[index] for tensor in self.side))


def _padded(tensors: list[Tensor]) -> Tensor:
    """Tensors concatenated along the first axis, with zeros where their second axes differ in length."""
    if tensors[0].ndim < 2:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    joined = tensors[0].new_zeros((sum(map(len, tensors)), longest, *tensors[0].shape[2:]))
    start = 0
    for tensor in tensors:
        joined[start : start + len(tensor), : tensor.shape[1]] = tensor
        start += len(tensor)
    return joined
