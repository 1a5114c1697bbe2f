"""Modalities: inputs are passed to sentence-transformers with an explicit modality.

Without one it treats a string that looks like an image's URL or path, or a `data:` URL, as that image and fetches or
opens it. Here a text is always a text, and images are decoded before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from diptych.errors import ConfigError, ModelError
from diptych.images.decode import central
from diptych.models.truncation import token_limit, within_reach

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Module

    from diptych.models.heads import Features

Item = TypeVar("Item")


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Texts as a list of strings. Lone surrogates, which no tokenizer accepts, become `?`.

    Raises:
        ConfigError: It is a single string or not iterable, or an item is not a string.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise ConfigError(
            f"the texts are a {type(texts).__name__}, not a list; give a list of strings, as ['a dog'] for one text"
        )
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise ConfigError(f"text {index} is a {type(text).__name__}; each text must be a string")
        if not text.isascii():
            listed[index] = text.encode("utf-8", "replace").decode()
    return listed


def as_texts(texts: str | Iterable[str]) -> list[str]:
    """One text or several as a list; errors are those of `checked_texts`."""
    return checked_texts([texts] if isinstance(texts, str) else texts)


def several_images(images: Iterable[Image.Image]) -> Iterable[Image.Image]:
    """`images`, if it can hold several.

    Raises:
        ConfigError: It is a single image, a path or a URL, bytes, or anything else that is not a list of images.
    """
    if isinstance(images, str | bytes | Path | Image.Image | Mapping) or not isinstance(images, Iterable):
        raise ConfigError(
            f"the images are a {type(images).__name__}, not a list; give a list of PIL images, as [image] for one "
            "(diptych.images.decode.decode opens a file)"
        )
    return images


def checked_images(images: Iterable[Image.Image]) -> list[Image.Image]:
    """Decoded images as a list, cropped to a bounded aspect ratio (`images.decode.central`) so that resizing is cheap.

    Raises:
        ConfigError: It is not a list, or an item is not a decoded image; strings are neither opened nor fetched.
    """
    listed = list(several_images(images))
    for index, image in enumerate(listed):
        if not isinstance(image, Image.Image):
            kind = type(image).__name__
            raise ConfigError(
                f"image {index} is a {kind}; give a PIL image (diptych.images.decode.decode opens a file)"
            )
    return list(map(central, listed))


def preprocess_texts(module: Module, texts: Iterable[str]) -> Features:
    """Input tensors of a text route, from its first module; empty for no texts."""
    texts = within_reach(checked_texts(texts), token_limit(module))
    if not texts:
        return {}
    return module.preprocess(texts if _reads_texts_alone(module) else _named("text", texts))


def preprocess_images(module: Module, images: Iterable[Image.Image]) -> Features:
    """Input tensors of an image route, from its first module; empty for no images."""
    images = checked_images(images)
    return module.preprocess(_named("image", images)) if images else {}


def inputs_to_encode(model: SentenceTransformer, texts: Iterable[str]) -> list[dict[str, str]] | list[str]:
    """Texts in the form in which `SentenceTransformer.encode` treats each as a text.

    Raises:
        ModelError: The model also embeds images, and its text module accepts plain strings only.
    """
    from sentence_transformers.base.modules import Router

    first: Any = model[0]
    texts = within_reach(checked_texts(texts), token_limit(first))
    routes: Any = first.sub_modules.values() if isinstance(first, Router) else [[first]]
    if not any(_reads_texts_alone(route[0]) for route in routes):
        return _named("text", texts)
    if set(model.modalities) != {"text"}:
        raise ModelError(f"the model embeds {model.modalities} with a module for plain strings; use a text encoder")
    return list(texts)


def _named(modality: str, inputs: Sequence[Item]) -> list[dict[str, Item]]:
    return [{modality: item} for item in inputs]


def _reads_texts_alone(module: object) -> bool:
    """Whether a module accepts plain strings only and does not guess modalities."""
    from sentence_transformers.sentence_transformer.modules import BoW, StaticEmbedding, WordEmbeddings

    return isinstance(module, BoW | StaticEmbedding | WordEmbeddings)
