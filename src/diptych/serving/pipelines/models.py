"""Models of diptych, and what preprocesses for them, as transformers' pipelines see theirs."""

# transformers' own classes narrow these signatures too, and duck-typed parts are welcome in its pipelines.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from diptych.captioning.captioner import Captioner
from diptych.errors import ConfigError, did_you_mean
from diptych.models.dual_encoder import DualEncoder

_OF_A_PICTURE = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


class DualConfig(PreTrainedConfig):
    model_type = "diptych"


class SigmoidDualConfig(PreTrainedConfig):
    model_type = "diptych-siglip"  # by `siglip` the pipeline knows that each label has a probability of its own


class DualModel(PreTrainedModel):
    """A dual encoder as the pipelines see a model: logits of pictures and texts, or the vectors of pictures alone."""

    config_class = DualConfig
    main_input_name = "pixel_values"

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__(self.config_class())
        self.model, self.encoder = encoder.model, encoder

    def forward(self, **inputs: Any) -> ModelOutput:
        """`logits_per_image` (pictures, texts) and both vectors; without texts the pictures' unit vectors (n, dim)."""
        texts = {name: value for name, value in inputs.items() if name not in _OF_A_PICTURE}
        pictures = {name: value for name, value in inputs.items() if name in _OF_A_PICTURE}
        images = self.encoder.embed({**pictures, "modality": "image"})
        if not texts:
            return ModelOutput(image_embeds=images, pooler_output=images)
        vectors = self.encoder.embed({**texts, "modality": "text"})
        logits = images @ vectors.T * self.encoder.logit_scale + self.encoder.logit_bias
        return ModelOutput(logits_per_image=logits, image_embeds=images, text_embeds=vectors)


class SigmoidDualModel(DualModel):
    config_class = SigmoidDualConfig


class CaptionerModel(PreTrainedModel):
    """A captioner as the pipelines see a model that generates."""

    config_class = DualConfig

    def __init__(self, captioner: Captioner) -> None:
        super().__init__(self.config_class())
        self.captioner = captioner

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")  # decoded pictures go in; the captioner brings them to its own

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def generate(self, pictures: Sequence[Any], prompt: str = "", **settings: Any) -> list[str]:
        """The captions of one picture, by `generate`'s names for the captioner's settings.

        Raises:
            ConfigError: a setting has no counterpart.
        """
        wanted = {_SETTINGS.get(name, ""): value for name, value in settings.items() if name != "do_sample"}
        if "" in wanted:
            known = [*_SETTINGS, "do_sample"]
            wrong = next(name for name in settings if name not in known)
            raise ConfigError(f"this captioner has no setting '{wrong}'; {did_you_mean(wrong, known)}")
        if settings.get("do_sample"):
            wanted["method"] = "nucleus"
        elif settings.get("num_beams") == 1:
            wanted["method"] = "greedy"
        wanted["beams"] = max(wanted.get("beams", 3), wanted.get("count", 1))
        return [caption.text for caption in self.captioner.caption(pictures, prefix=prompt, **wanted)[0]]


_SETTINGS = {
    "max_new_tokens": "max_tokens",
    "num_beams": "beams",
    "num_return_sequences": "count",
    "temperature": "temperature",
    "top_p": "top_p",
}


class Pixels:
    """The image tower's own preprocessing, called as an image processor is."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        pictures = images if isinstance(images, list) else [images]
        return BatchFeature(_tensors(self.encoder.preprocess_images([picture.convert("RGB") for picture in pictures])))


class Tokens:
    """The text tower's own tokenizer and padding, whatever padding is asked for: it was trained with no other."""

    pad_token_id, padding_side = 0, "right"

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, texts: Sequence[str], **_: Any) -> BatchEncoding:
        return BatchEncoding(_tensors(self.encoder.preprocess_texts(texts)))


class Pictures:
    """Pictures as they are."""

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        return BatchFeature({"pictures": [images.convert("RGB")]})


class Texts:
    """Texts as they are."""

    pad_token_id, padding_side = None, "right"

    def __call__(self, text: str, **_: Any) -> dict[str, str]:
        return {"prompt": text}

    def decode(self, text: str, **_: Any) -> str:
        return text


def _tensors(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}
