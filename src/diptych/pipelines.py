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
    Pipeline,
    ZeroShotImageClassificationPipeline,
)

from diptych.captions.captioner import load_captioner
from diptych.checkpoints import loading, model_directory, refuse_unsafe
from diptych.dual import load
from diptych.errors import ConfigError, did_you_mean
from diptych.images import central
from diptych.pipeline_models import CaptionerModel, DualModel, Pictures, Pixels, SigmoidDualModel, Texts, Tokens

TASKS = ("zero-shot-image-classification", "image-feature-extraction", "image-to-text", "image-text-to-text")


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
        return ImageToTextPipeline(captioner, tokenizer=Texts(), image_processor=Pictures(), **_task(task, captioner))
    if task == "image-text-to-text":
        return _image_text_to_text(model, device)
    encoder = load(model, device)
    dual = (DualModel if not encoder.logit_bias else SigmoidDualModel)(encoder)
    parts: dict[str, Any] = {"tokenizer": Tokens(encoder), "image_processor": Pixels(encoder)}
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
        picture = central(load_image(image, timeout=timeout))
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


def _task(task: str, model: PreTrainedModel) -> dict[str, Any]:
    return {"task": task, "device": model.device}


def _image_text_to_text(model: str | Path, device: str) -> Pipeline:
    from transformers import pipeline as of_transformers

    from diptych.device import pick_device

    path = model_directory(model)
    refuse_unsafe(path)
    if not (path / "config.json").exists():
        raise ConfigError(f"'{model}' is no model of the image-text-to-text kind; for its captions take image-to-text")
    safe = {"use_safetensors": True}
    with loading(f"model '{model}'"):
        return of_transformers("image-text-to-text", model=str(path), device=pick_device(device), model_kwargs=safe)
