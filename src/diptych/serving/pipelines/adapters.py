"""Adapters that give diptych's models and preprocessing the interface that transformers' pipelines expect."""

# transformers' own classes narrow these signatures too, and its pipelines accept duck-typed parts.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchEncoding, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from diptych.captioning.captioner import Captioner
from diptych.errors import ConfigError, did_you_mean
from diptych.models.dual_encoder import DualEncoder

_IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
_GENERATION_ARGUMENTS = {  # of transformers' `generate` -> of `Captioner.caption`
    "max_new_tokens": "max_tokens",
    "num_beams": "beams",
    "num_return_sequences": "count",
    "temperature": "temperature",
    "top_p": "top_p",
}
_DEFAULT_BEAMS = 3


class DualEncoderConfig(PreTrainedConfig):
    """The configuration of a dual encoder with softmax logits (CLIP-style)."""

    model_type = "diptych"


class SigmoidDualEncoderConfig(PreTrainedConfig):
    """The configuration of a dual encoder with sigmoid logits (SigLIP-style)."""

    # The zero-shot pipeline looks for `siglip` in the type and then gives each label an independent probability.
    model_type = "diptych-siglip"


class DualEncoderModel(PreTrainedModel):
    """A dual encoder as a transformers model: logits of images and texts, or embeddings of images alone."""

    config_class = DualEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__(self.config_class())
        self.model, self.encoder = encoder.model, encoder

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """`logits_per_image` (images, texts) with both embeddings; without texts, the image embeddings (images, dim).

        Embeddings are unit vectors. Images without texts get `image_embeds` and `pooler_output`, which are the same.
        """
        texts = {name: value for name, value in inputs.items() if name not in _IMAGE_INPUTS}
        images = {name: value for name, value in inputs.items() if name in _IMAGE_INPUTS}
        image_embeddings = self.encoder.embed({**images, "modality": "image"})  # (images, dim)
        if not texts:
            return ModelOutput(image_embeds=image_embeddings, pooler_output=image_embeddings)
        text_embeddings = self.encoder.embed({**texts, "modality": "text"})  # (texts, dim)
        logits = image_embeddings @ text_embeddings.T * self.encoder.logit_scale + self.encoder.logit_bias
        return ModelOutput(logits_per_image=logits, image_embeds=image_embeddings, text_embeds=text_embeddings)


class SigmoidDualEncoderModel(DualEncoderModel):
    """A dual encoder whose labels have independent probabilities."""

    config_class = SigmoidDualEncoderConfig


class CaptionerModel(PreTrainedModel):
    """A captioner as a transformers model with `generate`."""

    config_class = DualEncoderConfig

    def __init__(self, captioner: Captioner) -> None:
        super().__init__(self.config_class())
        self.captioner = captioner

    @property
    def device(self) -> torch.device:
        """The CPU: the inputs are decoded images, which the captioner moves to its own device."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    def generate(self, images: Sequence[Image.Image], prompt: str = "", **arguments: float) -> list[str]:
        """The captions of one image, a list of texts; `arguments` are those of transformers' `generate`.

        Supported are `max_new_tokens`, `num_beams`, `num_return_sequences`, `temperature`, `top_p` and `do_sample`.

        Raises:
            ConfigError: an argument is not supported.
        """
        supported = [*_GENERATION_ARGUMENTS, "do_sample"]
        if unknown := next((name for name in arguments if name not in supported), None):
            raise ConfigError(f"this captioner does not support '{unknown}'; {did_you_mean(unknown, supported)}")
        options = {_GENERATION_ARGUMENTS[name]: value for name, value in arguments.items() if name != "do_sample"}
        options["beams"] = max(options.get("beams", _DEFAULT_BEAMS), options.get("count", 1))
        greedy = "greedy" if arguments.get("num_beams") == 1 else "beam"
        method = "nucleus" if arguments.get("do_sample") else greedy
        return [caption.text for caption in self.captioner.caption(images, prefix=prompt, method=method, **options)[0]]


class ImagePreprocessor:
    """The preprocessing of an image tower as an image processor."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, images: Image.Image | list[Image.Image], **_: object) -> BatchFeature:
        """The tensors of an image or of several; further arguments are ignored."""
        images = images if isinstance(images, list) else [images]
        return BatchFeature(_tensors(self.encoder.preprocess_images([image.convert("RGB") for image in images])))


class TextPreprocessor:
    """The tokenizer of a text tower, with the padding that it was trained with, whatever padding is requested."""

    pad_token_id: ClassVar[int] = 0
    padding_side: ClassVar[str] = "right"

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, texts: Sequence[str], **_: object) -> BatchEncoding:
        """The tensors of texts; further arguments are ignored."""
        return BatchEncoding(_tensors(self.encoder.preprocess_texts(texts)))


class PassThroughImages:
    """An image processor that returns the image itself, for captioners that preprocess on their own."""

    def __call__(self, images: Image.Image, **_: object) -> BatchFeature:
        """The image in RGB, as the only item of `images`."""
        return BatchFeature({"images": [images.convert("RGB")]})


class PassThroughTexts:
    """A tokenizer that returns texts unchanged, for captioners that tokenize on their own."""

    pad_token_id: ClassVar[int | None] = None
    padding_side: ClassVar[str] = "right"

    def __call__(self, text: str, **_: object) -> dict[str, str]:
        """The text as `prompt`."""
        return {"prompt": text}

    def decode(self, text: str, **_: object) -> str:
        """The text, unchanged."""
        return text


def _tensors(features: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}
