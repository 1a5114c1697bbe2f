"""The request handler of a Hugging Face Inference Endpoint."""

from __future__ import annotations

import base64
import binascii
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from diptych.errors import ConfigError, did_you_mean
from diptych.export.endpoint import MAX_INPUTS, MODEL
from diptych.images.decode import decode

if TYPE_CHECKING:
    from diptych.serving.parameters import Method


Rows = list[list[float]]
"""Unit embeddings: (inputs, dim)."""


class Endpoint:
    """Handles the requests of an endpoint in the directory `path`. Each model is loaded on first use.

    `inputs` is a text, a list of texts, an image (base64, a data: URL, or decoded, as endpoints pass on requests of
    type `image/*`), or a dictionary with `texts` and `images`. `parameters["task"]` is one of the following, by default
    the one that fits the inputs and the other parameters:

    - `embed`: unit embeddings. The default for texts.
    - `classify`: labels with scores, best first, as in transformers' zero-shot-image-classification. The default with
      `candidate_labels`.
    - `caption`: captions with the matcher's confidence. The default for an image.
    - `match`: P(match) of the image and each text. The default with `texts`.
    """

    def __init__(self, path: str | Path = "") -> None:
        from diptych.serving.service import Service

        self.service = Service(Path(path) / MODEL)

    def __call__(self, data: Mapping[str, object]) -> object:
        """The response to a request, made of lists, dictionaries, numbers and strings.

        Raises:
            ConfigError: the request is invalid; the endpoint responds with status 400 and the message.
            ImageError: an image cannot be decoded.
            ModelError: the model has no captioner or matcher.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ConfigError('the request has no "inputs"; it must be {"inputs": ..., "parameters": {...}}')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ConfigError(f'"parameters" is a {type(parameters).__name__}; it must be an object')
        task = parameters.get("task") or _default_task(inputs, parameters)
        if task not in _TASKS:
            raise ConfigError(f"unknown task '{task}'; {did_you_mean(str(task), _TASKS)}")
        settings = {name: value for name, value in parameters.items() if name != "task"}
        try:
            inspect.signature(_TASKS[task]).bind(self, inputs, **settings)
        except TypeError as error:
            raise ConfigError(f"parameters of task '{task}': {error}") from error
        return _TASKS[task](self, inputs, **settings)

    def embed(self, inputs: object) -> Rows | dict[str, Rows]:
        """Unit embeddings: one for each text; with `texts` and `images`, both lists by name."""
        if isinstance(inputs, dict):
            images = [_image(value) for value in _list(inputs.get("images", []), "images")]
            embeddings = self.service.embed(images, _texts(inputs.get("texts", []), "texts"))
            return {"texts": embeddings.text_embeddings.tolist(), "images": embeddings.image_embeddings.tolist()}
        if _is_image(inputs):
            return self.service.embed([_image(inputs)]).image_embeddings.tolist()
        return self.service.embed(
            texts=_texts([inputs] if isinstance(inputs, str) else inputs, "inputs")
        ).text_embeddings.tolist()

    def classify(
        self, inputs: object, *, candidate_labels: object, hypothesis_template: str = "This is a photo of {}."
    ) -> list[dict[str, object]]:
        """Labels with their probabilities, which sum to 1, best first."""
        from diptych.captioning.candidates import rank_candidates

        named = candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels
        labels = [label.strip() for label in _texts(named, "candidate_labels")]
        with self.service.loaded.using("encoder") as encoder:
            ranked = rank_candidates([_image(inputs)], labels, encoder, templates=(hypothesis_template,))
        return [{"label": candidate.text, "score": candidate.probability} for candidate in ranked[0]]

    def caption(
        self,
        inputs: object,
        *,
        count: int = 1,
        method: Method = "beam",
        beams: int = 3,
        prefix: str = "",
        max_tokens: int = 30,
    ) -> list[dict[str, object]]:
        """Captions of the image, best first: `count`, `beams` from 1 to 16, `max_tokens` from 1 to 128."""
        for name, value, limit in (("count", count, 16), ("beams", beams, 16), ("max_tokens", max_tokens, 128)):
            if not isinstance(value, int) or not 1 <= value <= limit:
                raise ConfigError(f'"{name}" is {value!r}; it must be a whole number from 1 to {limit}')
        (captioned,) = self.service.caption(
            [_image(inputs)],
            count=count,
            method=method,
            beams=max(beams, count),
            prefix=str(prefix),
            max_tokens=max_tokens,
        )
        return [{"generated_text": caption["text"], **caption} for caption in map(asdict, captioned.alternatives)]

    def match(self, inputs: object, *, texts: object, prior: float | None = None) -> list[dict[str, object]]:
        """P(match) of the image and each text, in the order of the request."""
        checked = _texts([texts] if isinstance(texts, str) else texts, "texts")
        probabilities = self.service.match(_image(inputs), checked, prior=prior)
        return [{"text": text, "probability": p} for text, p in zip(checked, probabilities, strict=True)]


_TASKS: dict[str, Callable[..., object]] = {
    "embed": Endpoint.embed,
    "classify": Endpoint.classify,
    "caption": Endpoint.caption,
    "match": Endpoint.match,
}


def _default_task(inputs: object, parameters: Mapping[str, object]) -> str:
    if "candidate_labels" in parameters:
        return "classify"
    if "texts" in parameters:
        return "match"
    return "caption" if _is_image(inputs) else "embed"


def _is_image(inputs: object) -> bool:
    """Whether the inputs are certainly an image; bare base64 may be a text."""
    if isinstance(inputs, str):
        return inputs.startswith("data:image/")
    return isinstance(inputs, Image.Image | bytes)


def _list(values: object, name: str) -> Sequence[object]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f'"{name}" is a {type(values).__name__}; it must be a list')
    if len(values) > MAX_INPUTS:
        raise ConfigError(f'"{name}" has {len(values)} entries; the limit is {MAX_INPUTS}')
    return values


def _texts(values: object, name: str) -> list[str]:
    listed = _list(values, name)
    texts = [text for text in listed if isinstance(text, str) and text.strip()]
    if len(texts) < len(listed):
        raise ConfigError(f'"{name}" must be strings that are not empty')
    return texts


def _image(value: object) -> Image.Image:
    """An image of a request, upright and in RGB."""
    if isinstance(value, Image.Image):
        return ImageOps.exif_transpose(value).convert("RGB")
    if isinstance(value, dict):
        value = value.get("image")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError("an image must be base64 of its file, or a data: URL") from error
    if not isinstance(value, bytes):
        raise ConfigError(f"an image is a {type(value).__name__}; it must be base64 of its file, or a data: URL")
    return decode(value)
