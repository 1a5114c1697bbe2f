"""The dual encoder: images and texts as unit vectors of one space, in the sentence-transformers format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import Tensor

from diptych.errors import ConfigError, ModelError
from diptych.models import modalities
from diptych.models.architectures import configure_tokenizer
from diptych.models.checkpoints import (
    METADATA,
    Metadata,
    loading,
    model_directory,
    read_metadata,
    refuse_unsafe,
    write_metadata,
)
from diptych.models.cosine import normalize
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.heads import Features
from diptych.models.loading import load_modules
from diptych.models.open_clip.names import is_named
from diptych.models.open_clip.towers import is_open_clip, open_clip_towers
from diptych.models.pretrained import Pretrained
from diptych.models.truncation import warn_of_cut_texts
from diptych.models.two_towers import MODALITIES, TwoTowers
from diptych.models.unknown_words import unknown_to, warn_of_unknown_words
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

Item = TypeVar("Item")
Images = Iterable[Image.Image]
Embeddings = NDArray[np.float32] | Tensor
"""(items, dim) or (dim,) embeddings."""

# Entries of `diptych.json` that `save` writes itself, or that belong to other files of the directory.
_OWN_ENTRIES = ("kind", "logit_scale", "logit_bias", "matcher", "captioner", "prompter")


class DualEncoder(TwoTowers, Pretrained):
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

    hub_tags = ("dual-encoder", "image-text-retrieval")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        metadata: Metadata | None = None,
        readme: str | None = None,
    ) -> None:
        super().__init__(model)
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

    @quiet()
    def save(self, path: str | Path, metadata: Mapping[str, object] | None = None, readme: str | None = None) -> None:
        """Write the model with other metadata than it was loaded with; recipes publish their models by it.

        Args:
            path: The directory; created if it does not exist.
            metadata: Further entries of `diptych.json`.
            readme: Text of the model card; none is written by default.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(path), create_model_card=False, safe_serialization=True)
        numbers = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        write_metadata(path, {"kind": "dual", **numbers, **(metadata or {})})
        if readme is not None:
            (path / "README.md").write_text(readme, "utf-8")

    def fingerprint(self) -> str:
        """A fingerprint of weights and preprocessing: equal exactly for models that give equal embeddings."""
        return modules_fingerprint([*self.route("image"), *self.route("text")])

    # embedding

    @overload
    def encode_images(
        self, images: Images, *, batch_size: int = ..., show_progress: bool = ..., convert_to: Literal["numpy"] = ...
    ) -> NDArray[np.float32]: ...
    @overload
    def encode_images(
        self, images: Images, *, batch_size: int = ..., show_progress: bool = ..., convert_to: Literal["tensor"]
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
        return self._embedded(map(self.preprocess_images, batches), convert_to)

    @overload
    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = ...,
        show_progress: bool = ...,
        convert_to: Literal["numpy"] = ...,
    ) -> NDArray[np.float32]: ...
    @overload
    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = ..., show_progress: bool = ..., convert_to: Literal["tensor"]
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
        prepared = (self.preprocess_texts([texts[i] for i in batch]) for batch in batches)
        return self._embedded(prepared, convert_to)[np.argsort(order)]

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

    def _embedded(self, batches: Iterable[Features], convert_to: str) -> NDArray[np.float32] | Tensor:
        """Embeddings of preprocessed batches, (items, dim): an array, or a tensor on the model's device."""
        with torch.inference_mode():
            if convert_to == "tensor":
                parts = [self.embed(features) for features in batches]
                return torch.cat(parts) if parts else torch.empty((0, self.dim), device=self.device)
            arrays = [self.embed(features).cpu().numpy() for features in batches]
        return np.concatenate(arrays) if arrays else np.empty((0, self.dim), np.float32)

    def _unit(self, embeddings: Embeddings, name: str) -> NDArray[np.float32]:
        array = embeddings.detach().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings
        array = np.atleast_2d(np.asarray(array, np.float32))
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ConfigError(f"the {name} embeddings have the shape {array.shape}; it must be (items, {self.dim})")
        return normalize(array)


def load(name: str | Path, device: str = "auto") -> DualEncoder:
    """Load a dual encoder; short for `DualEncoder.from_pretrained`.

    Raises:
        ModelError: There is no such model, it has no safetensors, or it needs code of its own.
        MissingExtra: It is a model of open_clip, which is not installed.
    """
    return DualEncoder.from_pretrained(name, device=device)


def _checked_metadata(path: Path) -> Metadata:
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
