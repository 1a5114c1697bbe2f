"""Inference Endpoints: the directory that such an endpoint serves, and what answers its requests.

An endpoint imports `handler.py` from the directory, makes `EndpointHandler(path)` once, and calls it with each
request's JSON: `{"inputs": ..., "parameters": {...}}`. What it returns goes back as JSON.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from diptych.atomic import new_folder
from diptych.checkpoints import boxed, model_directory
from diptych.errors import ConfigError, did_you_mean
from diptych.images import decode
from diptych.quoting import markdown

MODEL = "model"
"""The folder of the model in the endpoint's directory."""

MAX_INPUTS = 64
"""Pictures, and texts, of one request."""

_HANDLER = '''"""What an Inference Endpoint runs: it makes one `EndpointHandler`, and calls it with each request."""

from diptych.endpoint import Endpoint as EndpointHandler

__all__ = ["EndpointHandler"]
'''


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
        from diptych.service import Service

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
        from diptych.captions.candidates import rank_candidates

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


def write_endpoint(name: str | Path, out: str | Path) -> Path:
    """Write the new directory `out`: `handler.py`, `requirements.txt`, `README.md`, and the model in `model/`.

    Pushed to the hub as it is, the repository can be deployed as an endpoint; `diptych.load` takes it too.

    Raises:
        ModelError: there is no such model.
        ConfigError: `out` exists.
    """
    out, source = Path(out), model_directory(name)
    if out.exists():
        raise ConfigError(f"'{out}' exists already; choose a new folder")
    needed = _extras(source)
    with new_folder(out) as folder:
        shutil.copytree(source, folder / MODEL, ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*"))
        (folder / "handler.py").write_text(_HANDLER, "utf-8")
        (folder / "requirements.txt").write_text(f"diptych{needed}=={version('diptych')}\n", "utf-8")
        title = str(name) if str(name) in boxed() else Path(name).name
        card = source / "README.md"
        (folder / "README.md").write_text(_readme(title, card.read_text("utf-8") if card.exists() else ""), "utf-8")
    return out


def _extras(model: Path) -> str:
    """The extras of diptych that a model needs, as a requirement names them."""
    exported = any(model.rglob("exported.json"))
    open_clip = any(model.rglob("open_clip_config.json"))
    names = ["search", *["export"] * exported, *["open-clip"] * open_clip]
    return f"[{','.join(names)}]"


def _readme(title: str, card: str) -> str:
    """The endpoint's card: the hub's metadata of the model's own, how to deploy and ask it, then the model's card."""
    head, body = split_metadata(card)
    metadata = head or "library_name: diptych\n"
    metadata = "".join(line for line in metadata.splitlines(True) if not line.startswith("pipeline_tag"))
    request = json.dumps({"inputs": "<base64 of a picture>", "parameters": {"candidate_labels": ["a dog", "a cat"]}})
    return f"""---
{metadata}---
# {markdown(title)}, as an Inference Endpoint

`handler.py` answers an endpoint's requests, `requirements.txt` is what it installs (put diptych's wheel beside it and
name the file there, if your endpoint cannot fetch diptych), `model/` is the model. Push the directory to the hub
(`diptych hub push DIRECTORY USER/NAME`) and deploy the repository as an endpoint of the kind Custom.

```sh
curl $ENDPOINT -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{request}'
```

| task | inputs | parameters | answer |
|---|---|---|---|
| `embed` | a text, texts, or `{{"texts": [...], "images": [...]}}` | | unit vectors |
| `classify` | a picture | `candidate_labels` | labels and scores, best first |
| `caption` | a picture | `count` | captions, best first |
| `match` | a picture | `texts` | the probability of each text |

A picture is base64 or a data URL; a body of type `image/*` works too. At most {MAX_INPUTS} of them a request.

{body}"""


def split_metadata(card: str) -> tuple[str, str]:
    """A card's metadata (YAML, without the lines of dashes; empty where there is none) and what stands after it."""
    if not card.startswith("---\n") or "\n---\n" not in card[4:]:
        return "", card
    head, _, body = card[4:].partition("\n---\n")
    return f"{head}\n", body


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
