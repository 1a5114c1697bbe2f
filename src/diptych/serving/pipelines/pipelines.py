"""transformers pipelines over diptych's models, and the pipeline for captions that transformers 5 removed.

`pipeline("zero-shot-image-classification", "mini")` gives transformers' own pipeline class with a dual encoder inside.
`register()` gives `transformers.pipeline` the task `image-captioning`, with the answers that `image-to-text` had: that
name itself now leads to `image-text-to-text`, which wants a text beside the picture and knows no ViT-GPT2.
"""

# transformers' own pipelines narrow these signatures too, and duck-typed parts are welcome in them.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.image_utils import load_image
from transformers.pipelines import (
    PIPELINE_REGISTRY,
    ImageFeatureExtractionPipeline,
    ImageTextToTextPipeline,
    Pipeline,
    ZeroShotImageClassificationPipeline,
)
from transformers.utils.chat_template_utils import Chat

from diptych.captioning.captioner import load_captioner
from diptych.errors import ConfigError, did_you_mean
from diptych.images.decode import central
from diptych.models.checkpoints import loading, model_directory, refuse_unsafe
from diptych.models.dual_encoder import load
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.serving.pipelines.models import (
    CaptionerModel,
    DualModel,
    Pictures,
    Pixels,
    SigmoidDualModel,
    Texts,
    Tokens,
)

TASKS = ("zero-shot-image-classification", "image-feature-extraction", "image-to-text", "image-text-to-text")


def pipeline(task: str, model: str | Path, device: str = "auto", *, urls: bool = False) -> Pipeline:
    """A transformers pipeline over a model of diptych, or over any model that diptych loads.

    `zero-shot-image-classification` and `image-feature-extraction` take a dual encoder, `image-to-text` a captioner;
    what goes in and comes out is as transformers documents it. `image-text-to-text` is transformers' own pipeline, for
    the models that have its architecture (BLIP, and those that hold a conversation).

    An image given as a string is a local path, a `data:` URL or base64. One at an http(s) URL is fetched, from wherever
    the URL leads, with `urls` alone. A text is never taken for an image.

    Raises:
        ConfigError: there is no such task.
        ModelError: there is no such model, or it is not one for the task.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no pipeline '{task}'; {did_you_mean(task, TASKS)}")
    if task == "image-to-text":
        captioner = CaptionerModel(load_captioner(model, device))
        return ImageToTextPipeline(
            captioner, tokenizer=Texts(), image_processor=Pictures(), **_task(task, captioner, urls)
        )
    if task == "image-text-to-text":
        return _image_text_to_text(model, device, urls)
    encoder = load(model, device)
    dual = (DualModel if not encoder.logit_bias else SigmoidDualModel)(encoder)
    parts: dict[str, Any] = {"tokenizer": Tokens(encoder), "image_processor": Pixels(encoder)}
    kind = DualZeroShotPipeline if task.startswith("zero-shot") else FeaturePipeline
    return kind(model=dual, **parts, **_task(task, dual, urls))


def register() -> None:
    """Teach `transformers.pipeline` the task `image-captioning`: ViT-GPT2, BLIP, and other models that caption."""
    from transformers import AutoModelForImageTextToText, VisionEncoderDecoderModel

    models = (AutoModelForImageTextToText, VisionEncoderDecoderModel)
    PIPELINE_REGISTRY.register_pipeline("image-captioning", ImageToTextPipeline, pt_model=models, type="multimodal")


class ImageToTextPipeline(Pipeline):
    """Captions of pictures, as transformers 4 answered them: `[{"generated_text": ...}]` for each picture.

    A call takes a picture or a list of them (Pillow's, a path, a `data:` URL; an http(s) URL with `urls=True`), and
    `max_new_tokens`, `generate_kwargs`, `prompt` (a beginning that the caption goes on from) and `timeout`.
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
        urls: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        settings = dict(generate_kwargs or {})
        if max_new_tokens is not None:
            if "max_new_tokens" in settings:
                raise ValueError("'max_new_tokens' stands both in generate_kwargs and beside it; give it once")
            settings["max_new_tokens"] = max_new_tokens
        before = {"prompt": prompt, "timeout": timeout, "urls": urls}
        return {name: value for name, value in before.items() if value is not None}, settings, {}

    def preprocess(
        self, image: Any, prompt: str | None = None, timeout: float | None = None, urls: bool = False
    ) -> Any:
        picture = central(load_image(_local(image, urls), timeout=timeout))
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

    def _sanitize_parameters(self, urls: bool | None = None, **kwargs: Any) -> Any:
        return _with_urls(super()._sanitize_parameters(**kwargs), urls)

    def preprocess(self, image: Any, *args: Any, urls: bool = False, **kwargs: Any) -> Any:
        return super().preprocess(_local(image, urls), *args, **kwargs)


class FeaturePipeline(ImageFeatureExtractionPipeline):
    """transformers' own, which fetches no image unless `urls` allows it."""

    def _sanitize_parameters(self, *args: Any, urls: bool | None = None, **kwargs: Any) -> Any:
        return _with_urls(super()._sanitize_parameters(*args, **kwargs), urls)

    def preprocess(self, image: Any, *args: Any, urls: bool = False, **kwargs: Any) -> Any:
        return super().preprocess(_local(image, urls), *args, **kwargs)


class TextPipeline(ImageTextToTextPipeline):
    """transformers' own, which fetches no image, of a call or of a conversation, unless `urls` allows it."""

    def preprocess(self, inputs: Any = None, *args: Any, urls: bool = False, **kwargs: Any) -> Any:
        if isinstance(inputs, Chat):
            for message in inputs.messages:  # a content that is one string is words
                _local([part for part in message["content"] if isinstance(part, dict)], urls)
        elif isinstance(inputs, dict):
            _local(inputs["images"], urls)
        return super().preprocess(inputs, *args, **kwargs)


def _local(image: Any, urls: bool) -> Any:
    """What was given: an image, several, or parts of a message; none is at an http(s) URL unless `urls` allows it.

    Raises:
        ConfigError: one is.
    """
    if isinstance(image, dict):
        _local([value for name, value in image.items() if name not in ("type", "text")], urls)
    elif isinstance(image, list | tuple):
        for each in image:
            _local(each, urls)
    elif isinstance(image, str) and not urls and image.strip().lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"the image '{image[:80]}' is a URL, and none is fetched; download it first, or pass urls=True where every "
            "URL can be trusted"
        )
    return image


def _with_urls(parameters: Any, urls: bool | None) -> Any:
    before, *rest = parameters
    return (before if urls is None else {**before, "urls": urls}, *rest)


def _task(task: str, model: PreTrainedModel, urls: bool) -> dict[str, Any]:
    return {"task": task, "device": model.device, "urls": urls}


def _image_text_to_text(model: str | Path, device: str, urls: bool) -> Pipeline:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers import pipeline as of_transformers

    from diptych.runtime.device import pick_device

    path = model_directory(model)
    refuse_unsafe(path)
    if not (path / "config.json").exists():
        raise ConfigError(f"'{model}' is no model of the image-text-to-text kind; for its captions take image-to-text")
    with loading(f"model '{model}'"):
        network = AutoModelForImageTextToText.from_pretrained(path, **WEIGHTS)
        processor = AutoProcessor.from_pretrained(path, **LOCAL)
        return of_transformers(
            "image-text-to-text",
            model=network,
            processor=processor,
            device=pick_device(device),
            pipeline_class=TextPipeline,
            urls=urls,
        )
