"""ImageNet's classes as points of the image tower's feature space: knowledge beyond Flickr8k without its pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class ClassPrototypes:
    """Feature vectors that the tower's own ImageNet classifier takes for a class, made from other pictures' features.

    A prototype is a real picture's feature, drawn half-way to the mean of all, plus the classifier's row of the class,
    its length 0.3 to 0.7 times the features' spread: the classifier is then at least as sure as of real pictures.
    """

    def __init__(self, weight: Tensor, bias: Tensor, features: np.ndarray) -> None:
        self.weight, self.bias = weight.detach(), bias.detach()  # (classes, width), (classes,)
        self.features = features  # (pictures, width)
        self.mean = torch.from_numpy(features.mean(0, dtype=np.float32))
        spread = torch.from_numpy(features[:1000].astype(np.float32)).sub(self.mean).norm(dim=1).mean()
        self.steps = F.normalize(self.weight, dim=1) * spread

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """(count, width) prototypes of as many different classes, and the classes."""
        classes = random.choice(len(self.weight), count, replace=False)
        pictures = torch.from_numpy(self.features[random.integers(len(self.features), size=count)].astype(np.float32))
        strength = torch.from_numpy(random.uniform(0.3, 0.7, (count, 1)).astype(np.float32))
        return (self.mean + 0.5 * (pictures - self.mean) + strength * self.steps[classes]).clamp(min=0), classes

    def logits(self, features: Tensor) -> Tensor:
        """What the classifier says: (batch, classes)."""
        return F.linear(features, self.weight, self.bias)
