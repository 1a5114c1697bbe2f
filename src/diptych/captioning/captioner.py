"""The captioner: captions of images by a model of any supported kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from diptych.captioning.graph_captioner import has_graphs, load_graph_model
from diptych.captioning.grid_captioner import load_grid_model
from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.transformers_captioner import is_whole, load_chat_model, load_transformers_model
from diptych.errors import ConfigError
from diptych.images.decode import content_hash
from diptych.models.checkpoints import METADATA, Metadata, model_directory
from diptych.models.heads import Features
from diptych.models.modalities import checked_images, checked_texts, several_images
from diptych.models.pretrained import Pretrained

__all__ = ["Caption", "CaptionModel", "Captioner", "load_captioner"]

Item = TypeVar("Item")

_TUNED = ("length_penalty", "no_repeat")
"""Fields of `GenerationConfig` that a model brings with its weights."""


class CaptionModel(Protocol):
    """The interface of a model behind a `Captioner`.

    It may also have `image_size` (input side in pixels) and `defaults` (fields of `GenerationConfig`).
    """

    def prepare(self, images: Sequence[Image.Image]) -> Features:
        """Preprocess images. Thread-safe."""

    def generate(
        self, prepared: Features, config: GenerationConfig, prefix: str, image_seeds: Sequence[int]
    ) -> list[list[Caption]]:
        """Captions of each prepared image, best first; samples depend on the image's own seed."""

    def save(self, path: Path) -> None:
        """Write the model to a directory."""


class Captioner(Pretrained):
    """Captions of images.

    Load one with `Captioner.from_pretrained` or train one with `diptych.train_captioner`.

    Args:
        name: Name or path of the model, for messages.
        model: The model that generates the captions.
    """

    hub_tags = ("image-captioning",)

    def __init__(self, name: str, model: CaptionModel) -> None:
        self.name, self.model = name, model

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str = "auto") -> Captioner:
        """Load a captioner. Only safetensors are read.

        Args:
            name_or_path: `mini`, a run or directory of `diptych train caption`, an exported model, or a directory or
                hub name of a VisionEncoderDecoder (ViT-GPT2), a BLIP for captions or an image-text-to-text model.
            device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

        Raises:
            ModelError: There is no such model, it does not generate captions, or its files do not fit together.
        """
        path = model_directory(name_or_path)
        model: CaptionModel
        if has_graphs(path):
            model = load_graph_model(name_or_path, device)
        elif (path / METADATA).exists() or (path / "modules.json").exists():
            model = load_grid_model(name_or_path, device)
        else:
            model = load_transformers_model(path, device) if is_whole(path) else load_chat_model(path, device)
        return cls(str(name_or_path), model)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model to a directory that `from_pretrained` reads, as safetensors.

        The directory of a decoder on a dual encoder also loads as that dual encoder.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.model.save(path)

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
        """`count` different captions of each image, best first.

        Args:
            images: Upright RGB images.
            method: `beam` (beam search), `greedy` or `nucleus` (sampling; duplicates are merged, so there may be fewer
                than `count` captions).
            beams: Beam width of beam search.
            count: Number of captions for each image.
            prefix: Text that every caption begins with. It is not scored.
            max_tokens: Maximum number of words or tokens after the prefix.
            temperature: Temperature of `nucleus`.
            top_p: Probability mass of `nucleus` (Holtzman et al. 2020).
            seed: Seed of `nucleus`. Equal seeds give an image equal captions, whatever the rest of the batch.
            batch_size: Images in one forward pass.

        Raises:
            ConfigError: A setting is out of its range, `greedy` with several captions, or an item is not a decoded
                image.
        """
        config = GenerationConfig(method, beams, count, max_tokens, temperature, top_p, seed)
        return self.caption_with(images, config, prefix=prefix, batch_size=batch_size)

    def caption_with(
        self, images: Iterable[Image.Image], config: GenerationConfig, *, prefix: str = "", batch_size: int = 16
    ) -> list[list[Caption]]:
        """Like `caption`, with its settings as a `GenerationConfig`."""
        (prefix,), config = checked_texts([prefix]), self.generation_config(config)
        batches = (checked_images(batch) for batch in batches_of(several_images(images), batch_size))
        return [captions for batch in batches for captions in self._write(batch, config, prefix)]

    @property
    def image_size(self) -> int | None:
        """Input side of the model in pixels, or None if it is not known; images may be decoded smaller."""
        return getattr(self.model, "image_size", None)

    def generation_config(self, config: GenerationConfig) -> GenerationConfig:
        """`config` with the model's own length penalty and size of n-grams that may not repeat, if it brings them."""
        tuned: Metadata = getattr(self.model, "defaults", {})
        return replace(config, **{key: value for key, value in tuned.items() if key in _TUNED})

    def _write(self, images: list[Image.Image], config: GenerationConfig, prefix: str) -> list[list[Caption]]:
        samples = config.method == "nucleus"
        seeds = [_image_seed(image) for image in images] if samples else range(len(images))
        return self.model.generate(self.model.prepare(images), config, prefix, seeds)


def load_captioner(name: str | Path, device: str = "auto") -> Captioner:
    """Load a captioner; short for `Captioner.from_pretrained`.

    Raises:
        ModelError: There is no such model, it does not generate captions, or its files do not fit together.
    """
    return Captioner.from_pretrained(name, device=device)


def _image_seed(image: Image.Image) -> int:
    """A 48-bit number from an image's pixels."""
    return int(content_hash(image.tobytes())[:12], 16)


def batches_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of `size` items; the last one may be shorter.

    Raises:
        ConfigError: `size` is below 1.
    """
    if size < 1:
        raise ConfigError(f"batch_size is {size}; it must be at least 1")
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
