"""The dual encoder: pictures and texts as unit vectors of one space, in the sentence-transformers format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import ConfigError, ModelError
from diptych.models import heads, modalities, towers
from diptych.models.architectures import embedding_width, input_size, settle
from diptych.models.checkpoints import CARD, loading, model_directory, read_metadata, refuse_unsafe, write_card
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.loading import load_modules
from diptych.models.open_clip.names import is_named
from diptych.models.open_clip.towers import is_open_clip, open_clip_towers
from diptych.models.truncation import warn_of_cut_texts
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

MODALITIES: tuple[Literal["image"], Literal["text"]] = ("image", "text")


class DualEncoder:
    """An image tower and a text tower that share a space: a `SentenceTransformer` and what its format has no place for.

    `logit_scale` is the multiplier (already exponentiated) that turns cosines into logits, `logit_bias` is added
    after it (the sigmoid loss learns one; else 0). Both live in `diptych.json` beside `modules.json`; a whole CLIP or
    SigLIP brings its own.
    """

    def __init__(
        self, model: SentenceTransformer, *, logit_scale: float | None = None, logit_bias: float | None = None
    ) -> None:
        if not all(model.supports(modality) for modality in MODALITIES):
            raise ModelError(f"the model embeds {model.modalities}; a dual encoder needs text and image")
        # Convolutions with channels last run 1.4 to 1.7 times as fast on CPUs; other layers do not mind.
        self.model = model.eval().to(memory_format=torch.channels_last)
        own_scale, own_bias = self._pretrained("logit_scale"), self._pretrained("logit_bias")
        self.logit_scale = logit_scale or (math.exp(own_scale) if own_scale is not None else 1 / 0.07)
        self.logit_bias = logit_bias if logit_bias is not None else own_bias or 0.0

    # the towers and their heads

    def route(self, modality: str) -> list[Module]:
        """The modules that a modality passes through; a whole CLIP is one module that serves both."""
        first: Any = self.model[0]
        return [*first.sub_modules[modality]] if isinstance(self.model[0], Router) else [first]

    def tower(self, modality: str) -> list[Module]:
        """The modules of a route before its projection head."""
        return [module for module in self.route(modality) if not isinstance(module, heads.HEAD_MODULES)]

    def head(self, modality: str) -> list[Module]:
        """The projection head of a route; empty for a whole CLIP."""
        return [module for module in self.route(modality) if isinstance(module, heads.HEAD_MODULES)]

    def tower_parameters(self, modality: str) -> dict[str, nn.Parameter]:
        """The parameters of one tower, by a name that begins with the modality: `image.blocks.0...`."""
        if len(route := self.tower(modality)) and isinstance(self.model[0], Router):
            found = {name: weight for module in route for name, weight in module.named_parameters()}
            return {f"{modality}.{_short(name)}": weight for name, weight in found.items()}
        prefixes = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
        found = dict(route[0].named_parameters())
        mine = {name: weight for name, weight in found.items() if _short(name).startswith(prefixes[modality])}
        if not mine:
            raise ModelError(f"cannot tell the {modality} tower's weights of a {type(route[0].model).__name__} apart")
        return {f"{modality}.{_short(name)}": weight for name, weight in mine.items()}

    # embedding

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dim(self) -> int:
        """The dimension of the shared space."""
        dim = embedding_width(self.route("text")[-1]) if len(self.head("text")) < 2 else None
        return dim or next(m.out_features for m in reversed(self.head("text")) if hasattr(m, "out_features"))

    @property
    def image_size(self) -> int | None:
        """The side in pixels of what the image tower sees, or None when its preprocessing does not say."""
        return input_size(self.route("image")[0])

    def preprocess_images(self, images: Iterable[Image.Image]) -> dict[str, Any]:
        """The tensors, on the CPU, that the model's own preprocessing makes of decoded images. Threads may call it.

        Raises:
            ConfigError: one is not a decoded image; a path or URL is not opened.
        """
        return self._routed("image", modalities.preprocess_images(self.route("image")[0], images))

    def preprocess_texts(self, texts: Iterable[str]) -> dict[str, Any]:
        """As `preprocess_images`, for texts: each is read as words, also where it looks like a URL or a path.

        Raises:
            ConfigError: one is not a string.
        """
        return self._routed("text", modalities.preprocess_texts(self.route("text")[0], texts))

    def _routed(self, side: str, features: dict[str, Any]) -> dict[str, Any]:
        """Features with the name of the route that they are for, where the model has routes."""
        if features and isinstance(self.model[0], Router):
            features["modality"] = side
        return features

    def embed(self, features: dict[str, Any]) -> Tensor:
        """Preprocessed inputs to unit vectors: (batch, dim) float32 on the model's device, with gradient if enabled."""
        return functional.normalize(self.model(self.to_device(features))["sentence_embedding"].float(), dim=-1)

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        """Preprocessed inputs on the model's device; pictures with channels last, as the image tower's weights lie."""
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in features.items()}
        pixels = moved.get("pixel_values")
        if pixels is not None and pixels.ndim == 4:
            moved["pixel_values"] = pixels.contiguous(memory_format=torch.channels_last)
        return moved

    def encode_images(self, images: Iterable[Image.Image], batch_size: int = 32) -> np.ndarray:
        """Unit vectors of upright RGB pictures: (pictures, dim) float32.

        Raises:
            ConfigError: one is not a decoded image; a path or URL is not opened.
        """
        with torch.inference_mode():
            parts = [self.embed(self.preprocess_images(batch)).cpu().numpy() for batch in _batched(images, batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 128) -> np.ndarray:
        """Unit vectors of texts: (texts, dim) float32.

        Each string is read as words, also where it looks like a URL or a path: nothing is fetched or opened.

        A text over the tower's limit is cut, and one `TextCutWarning` a call says by how much. An empty text gets the
        vector of the tower's start and end tokens alone, which describes nothing: callers that search refuse it.

        Raises:
            ConfigError: one is not a string.
        """
        texts = modalities.checked_texts(texts)
        warn_of_cut_texts(self.route("text")[0], texts, stacklevel=2)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        order = np.argsort(lengths, kind="stable")  # batches of one length pad little
        vectors = np.empty((len(texts), self.dim), np.float32)
        with torch.inference_mode():
            for batch in _batched(order, batch_size):
                vectors[batch] = self.embed(self.preprocess_texts([texts[index] for index in batch])).cpu().numpy()
        return vectors

    # disk

    def identity(self) -> str:
        """A hash of weights and preprocessing: two models share it exactly when they give the same vectors."""
        return modules_fingerprint([*self.route("image"), *self.route("text")])

    @quiet()
    def save(self, path: str | Path, card: dict[str, Any] | None = None, readme: str | None = None) -> None:
        """Write the model: sentence-transformers' files (safetensors), `diptych.json`, and `README.md` if given."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(path), create_model_card=False, safe_serialization=True)
        numbers = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        write_card(path, {"kind": "dual", **numbers, **(card or {})})
        if readme is not None:
            (path / "README.md").write_text(readme, "utf-8")

    def _pretrained(self, name: str) -> float | None:
        """A number that a whole CLIP or SigLIP learnt (its scale as a logarithm)."""
        number = getattr(getattr(self.model[0], "model", None), name, None)
        return float(number.detach()) if number is not None else None


def build(
    image_tower: str = "timm/resnet50",
    text_tower: str = "distilbert/distilbert-base-uncased",
    *,
    projection: str = "linear",
    dim: int = 256,
    dropout: float = 0.1,
    pretrained: bool = True,
    image_size: int | None = None,
    crop: str | None = None,
    image_pooling: str | None = None,
    text_pooling: str = "mean",
    max_length: int = 64,
    image_arguments: dict[str, Any] | None = None,
    text_arguments: dict[str, Any] | None = None,
    captions: Iterable[str] | None = None,
    device: str = "auto",
) -> DualEncoder:
    """Join two towers, each with a new projection head, into a dual encoder that is still to be trained.

    With linear or MLP heads the saved model loads with plain `SentenceTransformer(path)`. `captions` are needed with
    `pretrained=False`, to learn a vocabulary from.

    Raises:
        ModelError: a tower's name is not known or its weights cannot be loaded.
        ConfigError: the projection is not known.
    """
    image = towers.image_tower(
        image_tower,
        pretrained=pretrained,
        image_size=image_size,
        crop=crop,
        pooling=image_pooling,
        arguments=image_arguments,
    )
    text = towers.text_tower(
        text_tower,
        pretrained=pretrained,
        pooling=text_pooling,
        max_length=max_length,
        arguments=text_arguments,
        captions=captions,
    )
    routes = {
        modality: [*tower, *heads.projection_head(projection, towers.width_of(tower), dim, dropout)]
        for modality, tower in (("image", image), ("text", text))
    }
    router = Router(routes, default_route="text")
    return DualEncoder(SentenceTransformer(modules=[router], device=str(pick_device(device))))


def load(name: str | Path, device: str = "auto") -> DualEncoder:
    """Load a dual encoder: a directory that diptych trained, any CLIP or SigLIP checkpoint, or the hub name of one.

    Models of open_clip load from their directory, by their hub name, or as `open_clip/NAME@TAG`. Only safetensors are
    read, and no code from the checkpoint runs.

    Raises:
        ModelError: there is no such model, it has no safetensors, or it needs code of its own.
        MissingExtra: it is a model of open_clip, which is not installed.
    """
    if is_named(name):
        return _load_open_clip(name, device)
    path = model_directory(name)
    refuse_unsafe(path)
    if is_open_clip(path):
        return _load_open_clip(path, device)
    model = load_modules(path, f"model '{name}'", device)
    card = _numbered(path)
    with loading(f"model '{name}'"):
        encoder = DualEncoder(model, logit_scale=card.get("logit_scale"), logit_bias=card.get("logit_bias"))
        for modality in MODALITIES:
            settle(encoder.route(modality)[0])
    return encoder


def _numbered(path: Path) -> dict[str, Any]:
    """What a model's card says."""
    card = read_metadata(path)
    for name in ("logit_scale", "logit_bias"):
        if not isinstance(card.get(name), int | float | None):
            raise ModelError(f"'{path / CARD}' is damaged: its {name} is no number")
    return card


def _load_open_clip(source: str | Path, device: str) -> DualEncoder:
    with loading(f"model '{source}'"):
        image, text, logit_scale, logit_bias = open_clip_towers(source)
    router = Router({"image": [image], "text": [text]}, default_route="text")
    model = SentenceTransformer(modules=[router], device=str(pick_device(device)))
    return DualEncoder(model, logit_scale=logit_scale, logit_bias=logit_bias)


def _short(name: str) -> str:
    """A parameter's name without the wrappers around the network: `model.timm_model.blocks.0` -> `blocks.0`."""
    for prefix in ("model.", "timm_model."):
        name = name.removeprefix(prefix)
    return name


def _batched(items: Iterable, size: int) -> Iterator[list]:
    if size < 1:
        raise ConfigError(f"batch_size is {size}; it must be at least 1")
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
