"""`pipeline`, which makes transformers pipelines over diptych's models, and `register`, which adds `image-captioning`.

`pipeline("zero-shot-image-classification", "mini")` returns a pipeline of transformers' own class with a dual encoder
inside. `register()` adds the task `image-captioning` to `transformers.pipeline`. It answers as `image-to-text` did,
which transformers 5 removed: that name now means `image-text-to-text`, which requires a text beside the image and does
not support ViT-GPT2.
"""

# transformers' own pipelines narrow these signatures too, and accept duck-typed parts.
# mypy: disable-error-code="arg-type, assignment, call-arg, override"

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from diptych.captioning.captioner import load_captioner
from diptych.errors import ConfigError, did_you_mean
from diptych.models.checkpoints import loading, model_directory, refuse_unsafe
from diptych.models.dual_encoder import load
from diptych.models.loading import LOCAL, WEIGHTS
from diptych.serving.pipelines.adapters import (
    CaptionerModel,
    DualEncoderModel,
    ImagePreprocessor,
    PassThroughImages,
    PassThroughTexts,
    SigmoidDualEncoderModel,
    TextPreprocessor,
)
from diptych.serving.pipelines.tasks import (
    FeatureExtractionPipeline,
    ImageToTextPipeline,
    TextPipeline,
    ZeroShotPipeline,
)

TASKS = ("zero-shot-image-classification", "image-feature-extraction", "image-to-text", "image-text-to-text")


def pipeline(task: str, model: str | Path, device: str = "auto", *, urls: bool = False) -> Pipeline:
    """A transformers pipeline over a model that diptych loads.

    `zero-shot-image-classification` and `image-feature-extraction` take a dual encoder, `image-to-text` takes a
    captioner; inputs and outputs are those that transformers documents. `image-text-to-text` is transformers' own
    pipeline, for models of that architecture (BLIP, and conversational models).

    An image may be a Pillow image or a string: a local path, a `data:` URL or base64. An http(s) URL is fetched only
    with `urls`, and from any address that it leads to. A text input is never interpreted as an image.

    Raises:
        ConfigError: there is no such task, or the model does not support it.
        ModelError: there is no such model, or it cannot be loaded.
    """
    if task not in TASKS:
        raise ConfigError(f"there is no pipeline '{task}'; {did_you_mean(task, TASKS)}")
    if task == "image-to-text":
        captioner = CaptionerModel(load_captioner(model, device))
        parts: dict[str, object] = {"tokenizer": PassThroughTexts(), "image_processor": PassThroughImages()}
        return ImageToTextPipeline(captioner, **parts, **_common_arguments(task, captioner, urls))
    if task == "image-text-to-text":
        return _image_text_to_text(model, device, urls)
    encoder = load(model, device)
    network = (SigmoidDualEncoderModel if encoder.logit_bias else DualEncoderModel)(encoder)
    parts = {"tokenizer": TextPreprocessor(encoder), "image_processor": ImagePreprocessor(encoder)}
    kind = ZeroShotPipeline if task == "zero-shot-image-classification" else FeatureExtractionPipeline
    return kind(model=network, **parts, **_common_arguments(task, network, urls))


def register() -> None:
    """Add the task `image-captioning` to `transformers.pipeline`, for ViT-GPT2, BLIP and other captioners."""
    from transformers import AutoModelForImageTextToText, VisionEncoderDecoderModel

    models = (AutoModelForImageTextToText, VisionEncoderDecoderModel)
    PIPELINE_REGISTRY.register_pipeline("image-captioning", ImageToTextPipeline, pt_model=models, type="multimodal")


def _common_arguments(task: str, model: PreTrainedModel, urls: bool) -> dict[str, object]:
    return {"task": task, "device": model.device, "urls": urls}


def _image_text_to_text(model: str | Path, device: str, urls: bool) -> Pipeline:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers import pipeline as transformers_pipeline

    from diptych.runtime.device import pick_device

    path = model_directory(model)
    refuse_unsafe(path)
    if not (path / "config.json").exists():
        raise ConfigError(f"'{model}' is not an image-text-to-text model; use the task image-to-text for captions")
    with loading(f"model '{model}'"):
        network = AutoModelForImageTextToText.from_pretrained(path, **WEIGHTS)
        processor = AutoProcessor.from_pretrained(path, **LOCAL)
        return transformers_pipeline(
            "image-text-to-text",
            model=network,
            processor=processor,
            device=pick_device(device),
            pipeline_class=TextPipeline,
            urls=urls,
        )
