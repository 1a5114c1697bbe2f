"""The request handler of an Inference Endpoint."""

from __future__ import annotations

import base64
import binascii
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from diptych.errors import ConfigError, did_you_mean
from diptych.export.endpoint import MAX_INPUTS, MODEL
from diptych.images.decode import decode


class Endpoint:
    """Answers the requests of an endpoint; `path` is the endpoint's directory. Every model is loaded when first used.

    `inputs` is a text, a list of texts, a picture (base64, a data URL, or decoded already, as an endpoint hands on a
    request of type `image/*`), or a dictionary with `texts` and `images`. `parameters["task"]` says what to do with it,
    and need not be given where the other parameters tell:

    - `embed` (texts as they come): unit vectors;
    - `classify` (`candidate_labels`): labels with scores, best first, as transformers' zero-shot-image-classification;
    - `caption` (a picture as it comes): what it shows, with the matcher's confidence;
    - `match` (`texts`): the probability of each text that it belongs to the picture.
    """

    def __init__(self, path: str | Path = "") -> None:
        from diptych.serving.service import Service

        self.service = Service(Path(path) / MODEL)

    def __call__(self, data: dict[str, Any]) -> Any:
        """The answer to one request, of lists, dictionaries, numbers and texts.

        Raises:
            ConfigError: the request is not one of those above; the endpoint answers 400 with the message.
            ImageError: a picture cannot be decoded.
            ModelError: the model has no captioner or matcher.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ConfigError('a request is {"inputs": ..., "parameters": {...}}; there is no "inputs"')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ConfigError(f'"parameters" is a {type(parameters).__name__}; it must be an object')
        task = parameters.get("task") or _likely_task(inputs, parameters)
        if task not in _TASKS:
            raise ConfigError(f"there is no task '{task}'; {did_you_mean(str(task), _TASKS)}")
        settings = {name: value for name, value in parameters.items() if name != "task"}
        try:
            inspect.signature(_TASKS[task]).bind(self, inputs, **settings)
        except TypeError as error:
            raise ConfigError(f"parameters of task '{task}': {error}") from error
        return _TASKS[task](self, inputs, **settings)

    def embed(self, inputs: Any) -> Any:
        """Unit vectors: a list for each text; with `texts` and `images`, both lists by name."""
        if isinstance(inputs, dict):
            pictures = [_picture(each) for each in _several(inputs.get("images", []), "images")]
            found = self.service.embed(pictures, _texts(inputs.get("texts", []), "texts"))
            return {"texts": found.text_vectors.tolist(), "images": found.image_vectors.tolist()}
        if _is_picture(inputs):
            return self.service.embed([_picture(inputs)]).image_vectors.tolist()
        return self.service.embed(
            texts=_texts([inputs] if isinstance(inputs, str) else inputs, "inputs")
        ).text_vectors.tolist()

    def classify(
        self, inputs: Any, *, candidate_labels: Any, hypothesis_template: str = "This is a photo of {}."
    ) -> list[dict[str, Any]]:
        """Labels with their probability among them, best first."""
        from diptych.captioning.candidates import rank_candidates

        labels = candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels
        labels = [label.strip() for label in _texts(labels, "candidate_labels")]
        with self.service.loaded.using("encoder") as encoder:
            ranked = rank_candidates([_picture(inputs)], labels, encoder, templates=(hypothesis_template,))
        return [{"label": each.text, "score": each.probability} for each in ranked[0]]

    def caption(
        self,
        inputs: Any,
        *,
        count: int = 1,
        method: str = "beam",
        beams: int = 3,
        prefix: str = "",
        max_tokens: int = 30,
    ) -> list[dict[str, Any]]:
        """Captions of the picture, best first."""
        for name, value, most in (("count", count, 16), ("beams", beams, 16), ("max_tokens", max_tokens, 128)):
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f'"{name}" is {value!r}; it must be a whole number from 1 to {most}')
        settings: dict[str, Any] = {"beams": max(beams, count), "prefix": str(prefix), "max_tokens": max_tokens}
        found = self.service.caption([_picture(inputs)], count=count, method=method, **settings)[0]
        return [{"generated_text": each["text"], **each} for each in map(asdict, found.alternatives)]

    def match(self, inputs: Any, *, texts: Any, prior: float | None = None) -> list[dict[str, Any]]:
        """The probability of each text, in the order in which they were given."""
        texts = _texts([texts] if isinstance(texts, str) else texts, "texts")
        found = self.service.match(_picture(inputs), texts, prior=prior)
        return [{"text": text, "probability": each} for text, each in zip(texts, found, strict=True)]


_TASKS: dict[str, Callable[..., Any]] = {
    "embed": Endpoint.embed,
    "classify": Endpoint.classify,
    "caption": Endpoint.caption,
    "match": Endpoint.match,
}


def _likely_task(inputs: Any, parameters: dict[str, Any]) -> str:
    if "candidate_labels" in parameters:
        return "classify"
    if "texts" in parameters:
        return "match"
    return "caption" if _is_picture(inputs) else "embed"


def _is_picture(inputs: Any) -> bool:
    """Whether the inputs are a picture beyond doubt; base64 alone may be a text."""
    if isinstance(inputs, str):
        return inputs.startswith("data:image/")
    return isinstance(inputs, Image.Image | bytes)


def _several(values: Any, name: str) -> Sequence[Any]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f'"{name}" is a {type(values).__name__}; it must be a list')
    if len(values) > MAX_INPUTS:
        raise ConfigError(f'"{name}" has {len(values)} entries; a request may have {MAX_INPUTS}')
    return values


def _texts(values: Any, name: str) -> list[str]:
    texts = list(_several(values, name))
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f'"{name}" must be texts, none of them empty')
    return texts


def _picture(value: Any) -> Image.Image:
    """A picture of a request, upright and in RGB."""
    if isinstance(value, Image.Image):
        return ImageOps.exif_transpose(value).convert("RGB")
    if isinstance(value, dict):
        value = value.get("image")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError("a picture must be base64 of its file, or a data URL") from error
    if not isinstance(value, bytes):
        raise ConfigError(f"a picture is a {type(value).__name__}; it must be base64 of its file, or a data URL")
    return decode(value)
