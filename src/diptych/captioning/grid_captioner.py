"""The caption model of a dual encoder: a small decoder over the image tower's patch grid, saved beside the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.strategies import Caption, GenerationConfig, Hypothesis, generate
from diptych.captioning.vocabulary import END, PAD, START, UNKNOWN, Words
from diptych.errors import ConfigError, ModelError
from diptych.models import dual_encoder
from diptych.models.checkpoints import (
    HeadSettings,
    Metadata,
    add_part,
    loading,
    model_directory,
    read_metadata,
    write_metadata,
)
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.hidden_states import compute_hidden_states
from diptych.models.weights import read_weights, save_weights

WEIGHTS = "captioner.safetensors"
WORDS = "captioner.txt"
NEVER = (PAD, START, UNKNOWN)
"""Tokens that are never generated."""


class GridCaptionModel:
    """A dual encoder and a `CaptionDecoder` over its patch states.

    Args:
        encoder: The dual encoder whose image tower is read.
        decoder: The decoder.
        words: Its vocabulary.
        settings: The arguments with which the decoder was built, kept in `diptych.json`.
        defaults: Fields of `GenerationConfig` that were tuned with the weights (length penalty, n-gram size); they
            apply to every caption.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        decoder: CaptionDecoder,
        words: Words,
        settings: HeadSettings,
        defaults: Metadata | None = None,
    ) -> None:
        self.encoder, self.words, self.settings, self.defaults = encoder, words, settings, defaults or {}
        self.decoder = decoder.eval().to(encoder.device)

    @property
    def image_size(self) -> int | None:
        """Input side of the image tower in pixels; None if its preprocessing does not fix one."""
        return self.encoder.image_size

    def prepare(self, images: Sequence[Image.Image]) -> Features:
        """The image tower's input tensors, on the CPU. Thread-safe."""
        return self.encoder.preprocess_images(images)

    @torch.inference_mode()
    def generate(
        self, prepared: Features, config: GenerationConfig, prefix: str, image_seeds: Sequence[int]
    ) -> list[list[Caption]]:
        """Captions of each prepared image, best first."""
        memory = self.decoder.encode(compute_hidden_states(self.encoder, prepared))
        return self.from_memory(memory, config, prefix, image_seeds)

    def from_memory(
        self, memory: Tensor, config: GenerationConfig, prefix: str = "", image_seeds: Sequence[int] | None = None
    ) -> list[list[Caption]]:
        """Captions of images from the decoder's memory, (images, 1 + patches, dim).

        Raises:
            ConfigError: The prefix is longer than the model's maximum caption.
        """
        prefix_tokens = tuple(self.words.encode(prefix))
        room = self.decoder.max_tokens + 1 - len(prefix_tokens)
        if room < 1:
            raise ConfigError(
                f"the prefix has {len(prefix_tokens)} words; this model writes {self.decoder.max_tokens} at most"
            )
        hypotheses = generate(
            _DeviceState(self.decoder, memory),
            len(memory),
            replace(config, max_tokens=min(config.max_tokens, room)),
            start=START,
            end=END,
            suppress=NEVER,
            prefix=prefix_tokens,
            image_seeds=image_seeds,
        )
        return [[self._caption(hypothesis, prefix) for hypothesis in group] for group in hypotheses]

    def _caption(self, hypothesis: Hypothesis, prefix: str) -> Caption:
        text = self.words.decode(hypothesis.tokens)
        separator = "" if text.startswith("'") else " "
        return Caption(f"{prefix.strip()}{separator}{text}".strip() if prefix else text, hypothesis.score)

    def save(self, path: str | Path) -> None:
        """Write encoder and decoder to one directory."""
        self.encoder.save_pretrained(path)
        save_captioner(self, path)


class _DeviceState:
    """A decoding state whose token ids come from the CPU, where `strategies` keeps its books."""

    def __init__(self, decoder: CaptionDecoder, memory: Tensor) -> None:
        self.state, self.device = decoder.start(memory), memory.device

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        return self.state.step(words.to(self.device), None if parents is None else parents.to(self.device))

    def keep(self, images: Tensor) -> None:
        self.state.keep(images.to(self.device))


def save_captioner(
    model: GridCaptionModel, path: str | Path, metadata: Mapping[str, object] | None = None, *, half: bool = False
) -> None:
    """Add a captioner to the directory of its dual encoder, which still loads as a dual encoder and as a matcher.

    Writes `captioner.safetensors`, `captioner.txt` (the vocabulary) and the `captioner` section of `diptych.json`.

    Args:
        model: The captioner.
        path: Directory of the dual encoder.
        metadata: Further entries of the `captioner` section, such as the recipe.
        half: Store the weights in half precision.

    Raises:
        ModelError: There is no dual encoder in the directory.
    """
    path = Path(path)
    model_metadata = add_part(path, "captioner")
    save_weights(path / WEIGHTS, model.decoder.state_dict(), half=half)
    (path / WORDS).write_text("\n".join(model.words.words) + "\n", "utf-8")
    section = {"settings": model.settings, "habits": model.defaults, **(metadata or {})}
    write_metadata(path, {**model_metadata, "captioner": section})


def has_captioner(path: Path) -> bool:
    """Whether a model directory's `diptych.json` has a captioner."""
    return "captioner" in read_metadata(path)


def load_grid_model(name: str | Path, device: str = "auto") -> GridCaptionModel:
    """Load the captioner beside a dual encoder.

    Raises:
        ModelError: There is none, or its files do not fit together.
    """
    path = model_directory(name)
    if not has_captioner(path):
        raise ModelError(
            f"'{name}' has no captioner; train one on it: "
            f"diptych train caption --model {name} --data PATH --output runs/caption"
        )
    section = read_metadata(path)["captioner"]
    encoder = dual_encoder.load(name, device)
    with loading(f"the captioner of '{name}'"):
        words = Words((path / WORDS).read_text("utf-8").split())
        decoder = CaptionDecoder(len(words), **section["settings"])
        decoder.load_state_dict(read_weights(path / WEIGHTS))
        return GridCaptionModel(encoder, decoder, words, section["settings"], section.get("habits"))
