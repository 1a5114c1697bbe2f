"""Prototypes of the ImageNet classes in the feature space of the image tower, made without ImageNet images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


class ClassPrototypes:
    """Features that the ImageNet classifier of the tower assigns to a class, made from the features of other images.

    A prototype is the feature of a random image, moved half-way to the mean feature, plus the classifier weight of the
    class, scaled to 0.3 to 0.7 times the spread of the features. The classifier is at least as confident on prototypes
    as on ImageNet images.

    Args:
        weight: (classes, width) classifier weights.
        bias: (classes,) classifier biases.
        features: (images, width) features of any images.
    """

    def __init__(self, weight: Tensor, bias: Tensor, features: NDArray[np.floating]) -> None:
        self.weight, self.bias = weight.detach(), bias.detach()
        self.features = features
        self.mean = torch.from_numpy(features.mean(0, dtype=np.float32))
        spread = torch.from_numpy(features[:1000].astype(np.float32)).sub(self.mean).norm(dim=1).mean()
        self.directions = F.normalize(self.weight, dim=1) * spread

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, NDArray[np.int64]]:
        """(count, width) prototypes of different random classes, and (count,) the classes."""
        classes = random.choice(len(self.weight), count, replace=False)
        images = torch.from_numpy(self.features[random.integers(len(self.features), size=count)].astype(np.float32))
        strength = torch.from_numpy(random.uniform(0.3, 0.7, (count, 1)).astype(np.float32))
        return (self.mean + 0.5 * (images - self.mean) + strength * self.directions[classes]).clamp(min=0), classes

    def logits(self, features: Tensor) -> Tensor:
        """(batch, classes) the classifier's logits."""
        return F.linear(features, self.weight, self.bias)
