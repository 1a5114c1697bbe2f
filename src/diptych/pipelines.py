"""transformers pipelines over diptych's models, and the pipeline for captions that transformers 5 removed.

`pipeline("zero-shot-image-classification", "mini")` gives transformers' own pipeline class with a dual encoder inside.
`register()` gives `transformers.pipeline` the task `image-captioning`, with the answers that `image-to-text` had: that
name itself now leads to `image-text-to-text`, which wants a text beside the picture and knows no ViT-GPT2.
"""

# transformers' own pipelines narrow these signatures too, and duck-typed parts are welcome in them.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import load_image
from transformers.pipelines import (
    PIPELINE_REGISTRY,
    ImageFeatureExtractionPipeline,
    Pipeline,
    ZeroShotImageClassificationPipeline,
)
from transformers.utils import ModelOutput

from diptych.captions.captioner import Captioner, load_captioner
from diptych.checkpoints import model_directory, refuse_unsafe
from diptych.dual import DualEncoder, load
from diptych.errors import ConfigError, did_you_mean

TASKS = ("zero-shot-image-classification", "image-feature-extraction", "image-to-text", "image-text-to-text")

_OF_A_PICTURE = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


def pipeline(task: str, model: str | Path, device: str = "auto") -> Pipeline:
    """A transformers pipeline over a model of diptych, or over any model that diptych loads.

    `zero-shot-image-classification` and `image-feature-extraction` take a dual encoder, `image-to-text` a captioner;
    what goes in and comes out is as transformers documents it. `image-text-to-text` is transformers' own pipeline, for
    the models that have its architecture (BLIP, and those that hold a conversation).

    Raises:
        ConfigError: there is no such task.
        ModelError: there is no such model, or it is not one for the task.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no pipeline '{task}'; {did_you_mean(task, TASKS)}")
    if task == "image-to-text":
        captioner = CaptionerModel(load_captioner(model, device))
        return ImageToTextPipeline(captioner, tokenizer=_Texts(), image_processor=_Pictures(), **_task(task, captioner))
    if task == "image-text-to-text":
        return _image_text_to_text(model, device)
    encoder = load(model, device)
    dual = (DualModel if not encoder.logit_bias else SigmoidDualModel)(encoder)
    parts: dict[str, Any] = {"tokenizer": _Tokens(encoder), "image_processor": _Pixels(encoder)}
    kind = DualZeroShotPipeline if task.startswith("zero-shot") else ImageFeatureExtractionPipeline
    return kind(model=dual, **parts, **_task(task, dual))


def register() -> None:
    """Teach `transformers.pipeline` the task `image-captioning`: ViT-GPT2, BLIP, and other models that caption."""
    from transformers import AutoModelForImageTextToText, VisionEncoderDecoderModel

    models = (AutoModelForImageTextToText, VisionEncoderDecoderModel)
    PIPELINE_REGISTRY.register_pipeline("image-captioning", ImageToTextPipeline, pt_model=models, type="multimodal")


class ImageToTextPipeline(Pipeline):
    """Captions of pictures, as transformers 4 answered them: `[{"generated_text": ...}]` for each picture.

    A call takes a picture or a list of them (Pillow's, a path, an address), and `max_new_tokens`, `generate_kwargs`,
    `prompt` (a beginning that the caption goes on from) and `timeout`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True

    model: Any
    image_processor: Any
    tokenizer: Any

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The captions of a picture, or a list of them for a list of pictures; `images` is another name for these."""
        inputs = kwargs.pop("images", inputs)
        if inputs is None:
            raise ValueError("the image-to-text pipeline needs a picture")
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        settings = dict(generate_kwargs or {})
        if max_new_tokens is not None:
            if "max_new_tokens" in settings:
                raise ValueError("'max_new_tokens' stands both in generate_kwargs and beside it; give it once")
            settings["max_new_tokens"] = max_new_tokens
        before = {"prompt": prompt, "timeout": timeout}
        return {name: value for name, value in before.items() if value is not None}, settings, {}

    def preprocess(self, image: Any, prompt: str | None = None, timeout: float | None = None) -> Any:
        picture = load_image(image, timeout=timeout)
        inputs = self.image_processor(images=picture, return_tensors="pt").to(self.dtype)
        if prompt is not None:
            if self.model.config.model_type == "vision-encoder-decoder":
                raise ValueError("a vision-encoder-decoder takes no prompt")
            tokens = self.tokenizer(prompt, return_tensors="pt")
            inputs.update({name: value for name, value in tokens.items() if name != "token_type_ids"})
        return inputs

    def _forward(self, model_inputs: Any, **settings: Any) -> Any:
        if not isinstance(self.model, CaptionerModel):
            settings.setdefault("max_new_tokens", 256)  # as it was
        return self.model.generate(**model_inputs, **settings)

    def postprocess(self, outputs: Any) -> list[dict[str, str]]:
        return [{"generated_text": self.tokenizer.decode(each, skip_special_tokens=True)} for each in outputs]


class DualZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """transformers' own; that our model stands in none of its lists is no error."""

    def check_model_type(self, supported_models: Any) -> None:
        pass


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


class _Pixels:
    """The image tower's own preprocessing, called as an image processor is."""

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        pictures = images if isinstance(images, list) else [images]
        return BatchFeature(_tensors(self.encoder.preprocess([picture.convert("RGB") for picture in pictures])))


class _Tokens:
    """The text tower's own tokenizer and padding, whatever padding is asked for: it was trained with no other."""

    pad_token_id, padding_side = 0, "right"

    def __init__(self, encoder: DualEncoder) -> None:
        self.encoder = encoder

    def __call__(self, texts: Sequence[str], **_: Any) -> BatchEncoding:
        return BatchEncoding(_tensors(self.encoder.preprocess(list(texts))))


class _Pictures:
    """Pictures as they are."""

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        return BatchFeature({"pictures": [images.convert("RGB")]})


class _Texts:
    """Texts as they are."""

    pad_token_id, padding_side = None, "right"

    def __call__(self, text: str, **_: Any) -> dict[str, str]:
        return {"prompt": text}

    def decode(self, text: str, **_: Any) -> str:
        return text


def _tensors(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}


def _task(task: str, model: PreTrainedModel) -> dict[str, Any]:
    return {"task": task, "device": model.device}


def _image_text_to_text(model: str | Path, device: str) -> Pipeline:
    from transformers import pipeline as of_transformers

    from diptych.device import pick_device

    path = model_directory(model)
    refuse_unsafe(path)
    if not (path / "config.json").exists():
        raise ConfigError(f"'{model}' is no model of the image-text-to-text kind; for its captions take image-to-text")
    return of_transformers("image-text-to-text", model=str(path), device=pick_device(device))
