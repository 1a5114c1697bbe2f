"""Pipeline classes: image-to-text, and variants of transformers' own classes that fetch URLs only when allowed."""

# transformers' own pipelines narrow these signatures too.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from transformers import BatchFeature
from transformers.image_utils import load_image
from transformers.pipelines import (
    ImageFeatureExtractionPipeline,
    ImageTextToTextPipeline,
    Pipeline,
    ZeroShotImageClassificationPipeline,
)
from transformers.utils.chat_template_utils import Chat

from diptych.errors import ConfigError
from diptych.images.decode import central
from diptych.serving.pipelines.adapters import CaptionerModel

Input = TypeVar("Input")
Parameters = dict[str, object]
"""Keyword arguments of a step of a pipeline: `preprocess`, `_forward` or `postprocess`."""

_MAX_NEW_TOKENS = 256  # the default of transformers 4


class ImageToTextPipeline(Pipeline):
    """Captions of images with the answers of transformers 4: `[{"generated_text": ...}]` for each image.

    A call takes an image or a list of them (Pillow images, paths, `data:` URLs; http(s) URLs with `urls=True`), and
    `max_new_tokens`, `generate_kwargs`, `prompt` (the beginning of the caption) and `timeout`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True

    model: Any
    image_processor: Any
    tokenizer: Any

    def __call__(self, inputs: object = None, **kwargs: object) -> Any:
        """The captions of an image, or a list of them for a list of images; `images` is an alias of `inputs`.

        Raises:
            ConfigError: an image is an http(s) URL, and `urls` is not set.
            ValueError: there is no image, or `max_new_tokens` is given twice.
        """
        inputs = kwargs.pop("images", inputs)
        if inputs is None:
            raise ValueError("the image-to-text pipeline requires an image")
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: Mapping[str, object] | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
        urls: bool | None = None,
    ) -> tuple[Parameters, ...]:
        forward = dict(generate_kwargs or {})
        if max_new_tokens is not None:
            if "max_new_tokens" in forward:
                raise ValueError("'max_new_tokens' is both an argument and in generate_kwargs; give it once")
            forward["max_new_tokens"] = max_new_tokens
        preprocess = {"prompt": prompt, "timeout": timeout, "urls": urls}
        return {name: value for name, value in preprocess.items() if value is not None}, forward, {}

    def preprocess(
        self, image: object, prompt: str | None = None, timeout: float | None = None, urls: bool = False
    ) -> BatchFeature:
        """The model's inputs for an image and the beginning of its caption."""
        cropped = central(load_image(refuse_urls(image, urls), timeout=timeout))
        inputs = self.image_processor(images=cropped, return_tensors="pt").to(self.dtype)
        if prompt is not None:
            if self.model.config.model_type == "vision-encoder-decoder":
                raise ValueError("a vision-encoder-decoder model takes no prompt")
            tokens = self.tokenizer(prompt, return_tensors="pt")
            inputs.update({name: value for name, value in tokens.items() if name != "token_type_ids"})
        return inputs

    def _forward(self, model_inputs: BatchFeature, **arguments: object) -> object:
        if not isinstance(self.model, CaptionerModel):
            arguments.setdefault("max_new_tokens", _MAX_NEW_TOKENS)
        return self.model.generate(**model_inputs, **arguments)

    def postprocess(self, outputs: Sequence[object]) -> list[dict[str, str]]:
        """The generated token sequences of one image as texts."""
        return [{"generated_text": self.tokenizer.decode(output, skip_special_tokens=True)} for output in outputs]


class ZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """transformers' zero-shot classification, also for models that are not in its lists; fetches URLs if allowed."""

    def check_model_type(self, supported_models: object) -> None:
        """Accept every model."""

    def _sanitize_parameters(self, urls: bool | None = None, **kwargs: object) -> tuple[Parameters, ...]:
        return _with_urls(super()._sanitize_parameters(**kwargs), urls)

    def preprocess(self, image: object, *args: object, urls: bool = False, **kwargs: object) -> object:
        """The model's inputs, as in the base class."""
        return super().preprocess(refuse_urls(image, urls), *args, **kwargs)


class FeatureExtractionPipeline(ImageFeatureExtractionPipeline):
    """transformers' feature extraction; fetches URLs if allowed."""

    def _sanitize_parameters(self, *args: object, urls: bool | None = None, **kwargs: object) -> tuple[Parameters, ...]:
        return _with_urls(super()._sanitize_parameters(*args, **kwargs), urls)

    def preprocess(self, image: object, *args: object, urls: bool = False, **kwargs: object) -> object:
        """The model's inputs, as in the base class."""
        return super().preprocess(refuse_urls(image, urls), *args, **kwargs)


class TextPipeline(ImageTextToTextPipeline):
    """transformers' image-text-to-text; fetches the URLs of a call or of a conversation if allowed."""

    def preprocess(self, inputs: object = None, *args: object, urls: bool = False, **kwargs: object) -> object:
        """The model's inputs, as in the base class."""
        if isinstance(inputs, Chat):
            for message in inputs.messages:  # content that is a single string is text
                refuse_urls([part for part in message["content"] if isinstance(part, dict)], urls)
        elif isinstance(inputs, dict):
            refuse_urls(inputs["images"], urls)
        return super().preprocess(inputs, *args, **kwargs)


def refuse_urls(image: Input, allowed: bool = False) -> Input:
    """Return the input of a pipeline (an image, a list, or parts of a message) if no image in it is an http(s) URL.

    Raises:
        ConfigError: an image is an http(s) URL, and URLs are not `allowed`.
    """
    if isinstance(image, dict):
        refuse_urls([value for name, value in image.items() if name not in ("type", "text")], allowed)
    elif isinstance(image, list | tuple):
        for item in image:
            refuse_urls(item, allowed)
    elif isinstance(image, str) and not allowed and image.strip().lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"the image '{image[:80]}' is a URL, and URLs are not fetched; download it first, or pass urls=True if all "
            "URLs are trusted"
        )
    return image


def _with_urls(parameters: tuple[Parameters, ...], urls: bool | None) -> tuple[Parameters, ...]:
    """The parameters of a pipeline's steps, with `urls` added to those of `preprocess`."""
    preprocess, *rest = parameters
    return (preprocess if urls is None else {**preprocess, "urls": urls}, *rest)
