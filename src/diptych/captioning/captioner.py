"""The captioner: captions of pictures, whatever model writes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from diptych.captioning.graph_captioner import has_graphs, load_graph_model
from diptych.captioning.grid_captioner import load_grid_model
from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.transformers_captioner import is_whole, load_chat_model, load_transformers_model
from diptych.errors import ConfigError
from diptych.images.decode import content_hash
from diptych.models.checkpoints import CARD, model_directory
from diptych.models.modalities import checked_images, checked_texts

__all__ = ["Caption", "Captioner", "Writer", "load_captioner"]


class Writer(Protocol):
    """What a captioner needs of a model."""

    def prepare(self, images: Sequence[Image.Image]) -> Any:
        """Pictures as the model takes them; threads may call it."""

    def write(self, prepared: Any, wish: GenerationConfig, prefix: str, numbers: Sequence[int]) -> list[list[Caption]]:
        """Captions of prepared pictures; the draws of each depend on its number."""


class Captioner:
    """Captions of pictures by a model; `load_captioner` reads one, the recipe `caption` trains one."""

    def __init__(self, name: str, writer: Writer) -> None:
        self.name, self.writer = name, writer

    def caption(
        self,
        images: Iterable[Image.Image],
        *,
        method: str = "beam",
        beams: int = 3,
        count: int = 1,
        prefix: str = "",
        max_tokens: int = 30,
        temperature: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[list[Caption]]:
        """`count` different captions of each upright RGB picture, best first.

        `method` is `beam` (the likeliest of `beams` ways to go on), `greedy` (the likeliest word each time) or
        `nucleus` (words drawn at `temperature` from the fewest that have `top_p` of the probability; drawn twice, a
        caption stands once, so there may be fewer). Captions begin with `prefix`, which is not scored, and go on for
        `max_tokens` words or tokens at most. Equal seeds draw equal captions of a picture, in whatever batch and beside
        whatever others it is.

        Raises:
            ConfigError: a setting is out of its range, greedy was asked for several captions, or an image is not a
                decoded one.
        """
        drawn = {"temperature": temperature, "top_p": top_p, "seed": seed}
        wish = self.wish(method=method, beams=beams, count=count, max_tokens=max_tokens, **drawn)
        (prefix,) = checked_texts([prefix])
        batches = (checked_images(batch) for batch in batches_of(images, batch_size))
        return [of_one for batch in batches for of_one in self._write(batch, wish, prefix)]

    @property
    def image_size(self) -> int | None:
        """The side in pixels of what the model sees, if it says so: JPEGs need not be decoded much larger."""
        return getattr(self.writer, "image_size", None)

    def wish(self, **settings: Any) -> GenerationConfig:
        """Settings of `caption` with the habits that the model was chosen with."""
        return GenerationConfig(**{**getattr(self.writer, "habits", {}), **settings})

    def _write(self, images: list[Image.Image], wish: GenerationConfig, prefix: str) -> list[list[Caption]]:
        draws = wish.method == "nucleus"
        numbers = [_number(image) for image in images] if draws else range(len(images))
        return self.writer.write(self.writer.prepare(images), wish, prefix, numbers)


def load_captioner(name: str | Path, device: str = "auto") -> Captioner:
    """Load a captioner: `mini`, a run or directory of `diptych train caption`, or a model of transformers by name.

    Of those: any VisionEncoderDecoder (ViT-GPT2), BLIP, and image-text-to-text models. Only safetensors are read.

    Raises:
        ModelError: there is no such model, it writes no captions, or its files do not fit together.
    """
    path = model_directory(name)
    if has_graphs(path):
        return Captioner(str(name), load_graph_model(name, device))
    if (path / CARD).exists() or (path / "modules.json").exists():
        return Captioner(str(name), load_grid_model(name, device))
    return Captioner(
        str(name), load_transformers_model(path, device) if is_whole(path) else load_chat_model(path, device)
    )


def _number(image: Image.Image) -> int:
    """A number of 48 bits that is the picture's own."""
    return int(content_hash(image.tobytes())[:12], 16)


def batches_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter.

    Raises:
        ConfigError: `size` is below 1.
    """
    if size < 1:
        raise ConfigError(f"batch_size is {size}; it must be at least 1")
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch
