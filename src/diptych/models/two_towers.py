"""Two towers over one space: the modules of each modality, their preprocessing, and a forward pass with gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import ModelError
from diptych.models import heads, modalities
from diptych.models.architectures import embedding_width, input_size
from diptych.models.heads import Features

MODALITIES: tuple[Literal["image"], Literal["text"]] = ("image", "text")


class TwoTowers:
    """A `SentenceTransformer` that embeds images and texts, seen as an image tower and a text tower.

    Args:
        model: A model that embeds images and texts: a `Router` with a route for each, or a whole CLIP or SigLIP.

    Raises:
        ModelError: The model does not embed both images and texts.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        if not all(model.supports(modality) for modality in MODALITIES):
            raise ModelError(f"the model embeds {model.modalities}; a dual encoder needs text and image")
        # Convolutions in channels-last layout run 1.4 to 1.7 times as fast on CPUs; other layers are not affected.
        self.model = model.eval().to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def dim(self) -> int:
        """The dimension of the shared space."""
        dim = embedding_width(self.route("text")[-1]) if len(self.head("text")) < 2 else None
        return dim or next(m.out_features for m in reversed(self.head("text")) if hasattr(m, "out_features"))

    @property
    def image_size(self) -> int | None:
        """Input side of the image tower in pixels, or None if its preprocessing does not fix one."""
        return input_size(self.route("image")[0])

    def preprocess_images(self, images: Iterable[Image.Image]) -> Features:
        """The image tower's input tensors, on the CPU. Thread-safe.

        Raises:
            ConfigError: An item is not a decoded image; paths and URLs are not opened.
        """
        return self._routed("image", modalities.preprocess_images(self.route("image")[0], images))

    def preprocess_texts(self, texts: Iterable[str]) -> Features:
        """The text tower's input tensors, on the CPU. Thread-safe.

        Raises:
            ConfigError: An item is not a string.
        """
        return self._routed("text", modalities.preprocess_texts(self.route("text")[0], texts))

    def _routed(self, modality: str, features: Features) -> Features:
        """Features with the name of their route, for a model with routes."""
        if features and isinstance(self.model[0], Router):
            features["modality"] = modality
        return features

    def embed(self, features: Features) -> Tensor:
        """Embeddings of preprocessed inputs: (batch, dim) float32 on the model's device, with gradient if enabled."""
        return functional.normalize(self.model(self.to_device(features))["sentence_embedding"].float(), dim=-1)

    def to_device(self, features: Features) -> Features:
        """Preprocessed inputs on the model's device; images in channels-last layout, as the image tower's weights."""
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in features.items()}
        pixels = moved.get("pixel_values")
        if pixels is not None and pixels.ndim == 4:
            moved["pixel_values"] = pixels.contiguous(memory_format=torch.channels_last)
        return moved

    # towers and heads

    def route(self, modality: str) -> list[Module]:
        """The modules that a modality passes through; a whole CLIP is one module that serves both."""
        first: Any = self.model[0]
        return [*first.sub_modules[modality]] if isinstance(self.model[0], Router) else [first]

    def tower(self, modality: str) -> list[Module]:
        """The modules of a route before its projection head."""
        return [module for module in self.route(modality) if not isinstance(module, heads.HEAD_MODULES)]

    def head(self, modality: str) -> list[Module]:
        """The projection head of a route; empty for a whole CLIP."""
        return [module for module in self.route(modality) if isinstance(module, heads.HEAD_MODULES)]

    def tower_parameters(self, modality: str) -> dict[str, nn.Parameter]:
        """The parameters of one tower, by names that begin with the modality: `image.blocks.0...`.

        Raises:
            ModelError: The towers of a model without routes cannot be told apart.
        """
        if len(tower := self.tower(modality)) and isinstance(self.model[0], Router):
            parameters = {name: weight for module in tower for name, weight in module.named_parameters()}
            return {f"{modality}.{_short(name)}": weight for name, weight in parameters.items()}
        prefixes = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
        parameters = {
            name: weight for name, weight in tower[0].named_parameters() if _short(name).startswith(prefixes[modality])
        }
        if not parameters:
            kind = type(tower[0].model).__name__
            raise ModelError(f"cannot tell which weights of a {kind} belong to its {modality} tower")
        return {f"{modality}.{_short(name)}": weight for name, weight in parameters.items()}

    def _pretrained(self, name: str) -> float | None:
        """A scalar parameter of a whole CLIP or SigLIP (its scale is a logarithm)."""
        number = getattr(getattr(self.model[0], "model", None), name, None)
        return float(number.detach()) if number is not None else None


def _short(name: str) -> str:
    """A parameter's name without the wrappers around the network: `model.timm_model.blocks.0` -> `blocks.0`."""
    for prefix in ("model.", "timm_model."):
        name = name.removeprefix(prefix)
    return name
