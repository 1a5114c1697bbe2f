"""Captions from a dual encoder's patch grid: a small decoder that lies beside the encoder in one directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.strategies import Caption, GenerationConfig, Written, write
from diptych.captioning.vocabulary import END, PAD, START, UNKNOWN, Words
from diptych.errors import ConfigError, ModelError
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import CARD, loading, model_directory, read_metadata, write_card
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import compute_hidden_states

WEIGHTS = "captioner.safetensors"
WORDS = "captioner.txt"
NEVER = (PAD, START, UNKNOWN)


class GridCaptionModel:
    """Writes captions with a `CaptionDecoder` over a dual encoder; `settings` are the decoder's arguments.

    `habits` are fields of `GenerationConfig` that were chosen with the weights: length penalty and repeats.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        decoder: CaptionDecoder,
        words: Words,
        settings: dict[str, Any],
        habits: dict[str, Any] | None = None,
    ) -> None:
        self.encoder, self.words, self.settings, self.habits = encoder, words, settings, habits or {}
        self.decoder = decoder.eval().to(encoder.device)

    @property
    def image_size(self) -> int | None:
        return self.encoder.image_size

    def prepare(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        return self.encoder.preprocess_images(images)

    @torch.inference_mode()
    def write(
        self, prepared: dict[str, Any], wish: GenerationConfig, prefix: str, numbers: Sequence[int]
    ) -> list[list[Caption]]:
        memory = self.decoder.look(compute_hidden_states(self.encoder, prepared))
        return self.from_memory(memory, wish, prefix, numbers)

    def from_memory(
        self, memory: Tensor, wish: GenerationConfig, prefix: str = "", numbers: Sequence[int] | None = None
    ) -> list[list[Caption]]:
        """Captions of pictures that the decoder has looked at, (pictures, 1 + places, dim)."""
        begun = tuple(self.words.encode(prefix))
        room = self.decoder.max_tokens + 1 - len(begun)
        if room < 1:
            raise ConfigError(f"the prefix has {len(begun)} words; this model writes {self.decoder.max_tokens} at most")
        wish = GenerationConfig(**{**vars(wish), "max_tokens": min(wish.max_tokens, room)})
        place = {"start": START, "end": END, "never": NEVER, "prefix": begun, "numbers": numbers}
        found = write(_OnDevice(self.decoder, memory), len(memory), wish, **place)  # type: ignore[arg-type]
        return [[self._caption(written, prefix) for written in of_one] for of_one in found]

    def _caption(self, written: Written, prefix: str) -> Caption:
        text = self.words.decode(written.tokens)
        apart = "" if text.startswith("'") else " "
        return Caption(f"{prefix.strip()}{apart}{text}".strip() if prefix else text, written.score)


class _OnDevice:
    """A spelling whose words come from the CPU, where `strategies` keeps its books."""

    def __init__(self, decoder: CaptionDecoder, memory: Tensor) -> None:
        self.spelling, self.device = decoder.spell(memory), memory.device

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        return self.spelling.step(words.to(self.device), None if parents is None else parents.to(self.device))

    def keep(self, pictures: Tensor) -> None:
        self.spelling.keep(pictures.to(self.device))


def save_captioner(
    writer: GridCaptionModel, path: str | Path, told: dict[str, Any] | None = None, *, half: bool = False
) -> None:
    """Add a captioner to the directory in which its dual encoder lies.

    Writes `captioner.safetensors` (in half precision if asked), `captioner.txt` (the words) and, with what is `told` of
    it, a part of `diptych.json`; the directory goes on loading as a dual encoder, and as a matcher.

    Raises:
        ModelError: there is no dual encoder in the directory.
    """
    path = Path(path)
    if not (path / CARD).exists():
        raise ModelError(f"'{path}' holds no dual encoder to add a captioner to; save the encoder there first")
    weights = writer.decoder.state_dict()
    kept = {name: (tensor.half() if half else tensor).contiguous().cpu() for name, tensor in weights.items()}
    save_file(kept, path / WEIGHTS, metadata={"format": "pt"})
    (path / WORDS).write_text("\n".join(writer.words.words) + "\n", "utf-8")
    own = {"settings": writer.settings, "habits": writer.habits, **(told or {})}
    write_card(path, {**read_metadata(path), "captioner": own})


def has_captioner(path: Path) -> bool:
    """Whether a model's directory holds such a captioner."""
    return "captioner" in read_metadata(path)


def load_grid_model(name: str | Path, device: str = "auto") -> GridCaptionModel:
    """The captioner beside a dual encoder.

    Raises:
        ModelError: there is none, or its files do not fit together.
    """
    path = model_directory(name)
    if not has_captioner(path):
        raise ModelError(
            f"'{name}' has no captioner; train one on it: "
            f"diptych train caption --model {name} --data PATH --out runs/caption"
        )
    told = read_metadata(path)["captioner"]
    encoder = dual.load(name, device)
    with loading(f"the captioner of '{name}'"):
        words = Words((path / WORDS).read_text("utf-8").split())
        decoder = CaptionDecoder(len(words), **told["settings"])
        decoder.load_state_dict({key: value.float() for key, value in load_file(path / WEIGHTS).items()})
        return GridCaptionModel(encoder, decoder, words, told["settings"], told.get("habits"))
