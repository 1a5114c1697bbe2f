"""Image features of a prompter: pooled tower features, and the embedding where there is a projection head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from torch import Tensor
from torch.nn import functional

from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError
from diptych.models.architectures import embedding_width, input_size
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import EmbeddingFile, decode_all, write_embeddings
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.heads import EMBEDDING, Features
from diptych.models.modalities import checked_images, preprocess_images
from diptych.models.towers import width_of
from diptych.runtime.cache import cache_dir
from diptych.runtime.device import pick_device
from diptych.runtime.progress import Progress, silent


class ImageFeatures:
    """Computes image features with an image tower, optionally followed by the projection head of a dual encoder.

    With a projection head, the features are the pooled tower output and the unit embedding, concatenated. A CLIP model
    without a separate head contributes its embedding alone.

    Attributes:
        width: the number of features.
    """

    def __init__(self, model: SentenceTransformer, tower: list[Module], projection: Sequence[Module] = ()) -> None:
        self.model, self.tower, self.projection = model.eval(), tower, list(projection)
        widths = [_width(self.tower), *([_width(self.projection)] if self.projection else [])]
        self.width = sum(widths)

    @classmethod
    def of_encoder(cls, encoder: DualEncoder) -> ImageFeatures:
        """The features of a dual encoder's image side."""
        return cls(encoder.model, encoder.tower("image"), encoder.head("image"))

    @classmethod
    def of_tower(cls, tower: list[Module], device: str = "auto") -> ImageFeatures:
        """The features of an image tower alone."""
        model = SentenceTransformer(modules=[*tower], device=str(pick_device(device)))
        return cls(model.to(memory_format=torch.channels_last), tower)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int | None:
        """The side of the tower's input in pixels, or None if its preprocessing does not define one."""
        return input_size(self.tower[0])

    def fingerprint(self) -> str:
        """A hash of the weights and the preprocessing."""
        return modules_fingerprint([*self.tower, *self.projection])

    def preprocess(self, images: Sequence[Image.Image]) -> Features:
        """Convert upright RGB images to the tower's input tensors, on the CPU. Thread-safe.

        Raises:
            ConfigError: an item is not a decoded image; paths and URLs are not opened.
        """
        return preprocess_images(self.tower[0], images)

    def forward(self, inputs: Features) -> Tensor:
        """Features of preprocessed images: (batch, width) float32 on the model's device, with gradients if enabled."""
        features = {k: value.to(self.device) if isinstance(value, Tensor) else value for k, value in inputs.items()}
        for module in self.tower:
            features = module(features)
        pooled = features[EMBEDDING].float().flatten(1)
        if not self.projection:
            return pooled
        for module in self.projection:
            features = module(features)
        return torch.cat([pooled, functional.normalize(features[EMBEDDING].float(), dim=-1)], dim=1)

    @torch.inference_mode()
    def encode(self, images: Iterable[Image.Image], batch_size: int = 32) -> NDArray[np.float32]:
        """Features of upright RGB images: (images, width) float32."""
        images = checked_images(images)
        starts = range(0, len(images), batch_size)
        parts = [self.forward(self.preprocess(images[start : start + batch_size])).cpu().numpy() for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def cached(
        self,
        pairs: Pairs,
        *,
        views: int = 1,
        view: Callable[[Row, int], Image.Image] | None = None,
        name: str = "clean",
        progress: Progress = silent,
    ) -> NDArray[np.float16]:
        """Features of a data set's images, cached on disk: (images, views, width) float16.

        View 0 is the original image; `view(row, number)` produces the others. `name` identifies the augmentation in the
        cache key.

        Raises:
            DataError: an image cannot be decoded; `doctor.inspect.usable_pairs` drops such images.
        """

        def prepare(keys: Sequence[int]) -> Features:
            rows = [(pairs[key // views], key % views) for key in keys]
            return self.preprocess([view(row, n) if view and n else _decoded(row, self.image_size) for row, n in rows])

        @torch.inference_mode()
        def forward(inputs: Features) -> np.ndarray:
            return self.forward(inputs).cpu().numpy()

        folder = cache_dir() / "features" / f"{self.fingerprint()}-{pairs.fingerprint()}-{views}-{name}"
        sink = EmbeddingFile(folder, (len(pairs) * views, self.width), "float16")
        keys = range(len(pairs) * views)
        flat = write_embeddings(sink, keys, prepare, forward, progress=progress, label="computing image features")
        return flat.reshape(len(pairs), views, self.width)


def _decoded(row: Row, min_side: int | None) -> Image.Image:
    images, good = decode_all([row.image], min_side)
    if not good.all():
        raise DataError(f"image '{row.image_id}' cannot be decoded; run `diptych data inspect` to see why")
    return images[0]


def _width(modules: Sequence[Module]) -> int:
    """The output width of the last module that defines one."""
    for module in reversed(modules):
        if hasattr(module, "out_features"):
            return int(module.out_features)
    return embedding_width(modules[-1]) or width_of(list(modules))
