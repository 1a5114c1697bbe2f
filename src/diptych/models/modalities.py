"""Texts and images are named as such to sentence-transformers, which otherwise guesses what a string is.

Its guess takes a string that looks like the URL or path of an image, or a `data:` URL, for that image, and fetches or
opens it. Here a text is always a text and an image is always decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from diptych.errors import ConfigError, ModelError
from diptych.images.decode import central
from diptych.models.truncation import token_limit, within_reach

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Texts as a list of strings. A lone surrogate, which no tokenizer accepts, becomes `?`.

    Raises:
        ConfigError: it is a single string or no list at all, or an item is not a string.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise ConfigError(f"the texts are a {type(texts).__name__}; give a list of strings")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise ConfigError(f"text {index} is a {type(text).__name__}; each text must be a string")
        if not text.isascii():
            listed[index] = text.encode("utf-8", "replace").decode()
    return listed


def several_texts(texts: str | Iterable[str]) -> list[str]:
    """One text or several as a list; raises as `checked_texts`."""
    return checked_texts([texts] if isinstance(texts, str) else texts)


def checked_images(images: Iterable[Image.Image]) -> list[Image.Image]:
    """Decoded images as a list, each bounded in aspect ratio (`images.central`): what resizing makes of it is bounded.

    Raises:
        ConfigError: one is not a decoded image; a string is neither opened nor fetched.
    """
    listed = list(images)
    for index, image in enumerate(listed):
        if not isinstance(image, Image.Image):
            kind = type(image).__name__
            raise ConfigError(
                f"image {index} is a {kind}; give a PIL image (diptych.images.decode.decode opens a file)"
            )
    return list(map(central, listed))


def preprocess_texts(module: Any, texts: Iterable[str]) -> dict[str, Any]:
    """The tensors that the first module of a text route makes of texts."""
    texts = within_reach(checked_texts(texts), token_limit(module))
    if not texts:
        return {}
    return module.preprocess(texts if _reads_texts_alone(module) else _named("text", texts))


def preprocess_images(module: Any, images: Iterable[Image.Image]) -> dict[str, Any]:
    """The tensors that the first module of an image route makes of decoded images."""
    images = checked_images(images)
    return module.preprocess(_named("image", images)) if images else {}


def inputs_to_encode(model: SentenceTransformer, texts: Iterable[str]) -> list[Any]:
    """Texts as `SentenceTransformer.encode` must get them so that it takes each for a text.

    Raises:
        ModelError: the model reads texts and images by modules of which only some accept named inputs.
    """
    from sentence_transformers.base.modules import Router

    first: Any = model[0]
    texts = within_reach(checked_texts(texts), token_limit(first))
    routes: Any = first.sub_modules.values() if isinstance(first, Router) else [[first]]
    if not any(_reads_texts_alone(route[0]) for route in routes):
        return _named("text", texts)
    if set(model.modalities) != {"text"}:
        raise ModelError(f"the model embeds {model.modalities} with a module for plain strings; take a text encoder")
    return list(texts)


def _named(modality: str, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    return [{modality: each} for each in inputs]


def _reads_texts_alone(module: Any) -> bool:
    """Whether the module is one of sentence-transformers' that take strings alone, and guess nothing."""
    from sentence_transformers.sentence_transformer.modules import BoW, StaticEmbedding, WordEmbeddings

    return isinstance(module, BoW | StaticEmbedding | WordEmbeddings)
