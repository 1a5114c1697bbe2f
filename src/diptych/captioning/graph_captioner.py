"""A captioner that runs as two ONNX or OpenVINO graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.captioning.grid_captioner import WORDS, GridCaptionModel
from diptych.captioning.strategies import Caption, GenerationConfig
from diptych.captioning.vocabulary import Words
from diptych.errors import ModelError
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import loading, model_directory, read_metadata, refuse_unsafe
from diptych.models.dual_encoder import DualEncoder
from diptych.models.onnx.engines import Inputs, open_graph
from diptych.models.onnx.exported_tower import graph_hash

FOLDER = "captioner"


class GraphCaptionModel(GridCaptionModel):
    """Writes captions as `GridCaptionModel` does, with graphs in the place of tower and decoder."""

    def __init__(self, encoder: DualEncoder, graphs: GraphDecoder, words: Words, told: dict[str, Any]) -> None:
        self.encoder, self.words, self.settings = encoder, words, told["settings"]
        self.habits = told.get("habits") or {}
        self.decoder: Any = graphs

    def write(
        self, prepared: dict[str, Any], wish: GenerationConfig, prefix: str, numbers: Sequence[int]
    ) -> list[list[Caption]]:
        return self.from_memory(self.decoder.look(prepared), wish, prefix, numbers)


class GraphDecoder:
    """Both graphs, with the interface of `CaptionDecoder`."""

    def __init__(self, folder: Path, engine: str, inputs: Sequence[str], max_tokens: int) -> None:
        self.inputs, self.max_tokens = list(inputs), max_tokens
        self._look, self._step = open_graph(engine, folder / "look"), open_graph(engine, folder / "step")

    def look(self, prepared: dict[str, Any]) -> Tensor:
        inputs = {name: np.ascontiguousarray(prepared[name].cpu().numpy()) for name in self.inputs}
        return torch.from_numpy(self._look(inputs))

    def spell(self, looked: Tensor) -> GraphDecodingState:
        """Begin captions of these pictures."""
        return GraphDecodingState(self._step, looked.numpy())


class GraphDecodingState:
    """Captions in the making, some for each picture."""

    def __init__(self, run: Callable[[Inputs], np.ndarray], looked: np.ndarray) -> None:
        self.run, self.looked = run, looked
        self.said = np.empty((0, 0), np.int64)
        self._each: np.ndarray | None = None  # the pictures' keys and values, once for each caption

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """As `decoding.decoder.DecodingState.step`: the logits of the next word, (captions, words)."""
        newest = words.numpy()[:, None]
        said = self.said if parents is None or not self.said.size else self.said[parents.numpy()]
        self.said = np.concatenate([said, newest], axis=1) if self.said.size else newest
        if self._each is None or len(self._each) != len(words):
            self._each = np.repeat(self.looked, len(words) // len(self.looked), axis=0)
        return torch.from_numpy(self.run({"words": self.said, "looked": self._each}))

    def keep(self, pictures: Tensor) -> None:
        """Go on with these pictures alone."""
        self.looked, self._each = self.looked[pictures.numpy()], None


def has_graphs(path: Path) -> bool:
    """Whether a model's directory holds a captioner as graphs."""
    return (path / FOLDER / "look").is_dir()


def load_graph_model(name: str | Path, device: str = "auto") -> GraphCaptionModel:
    """The captioner of an exported model.

    Raises:
        ModelError: its files do not fit together, or are not those that were checked.
        MissingExtra: the engine is not installed.
    """
    path = model_directory(name)
    refuse_unsafe(path)
    with loading(f"the captioner of '{name}'"):
        told = read_metadata(path)["captioner"]
        graphs, settings = told["graphs"], told["settings"]
        for part, expected in graphs["sha256"].items():
            if graph_hash(path / FOLDER / part, graphs["engine"]) != expected:
                raise ModelError(f"'{path / FOLDER / part}' holds no graph that was checked; export it again")
        words = Words((path / WORDS).read_text("utf-8").split())
        decoder = GraphDecoder(path / FOLDER, graphs["engine"], graphs["inputs"], settings.get("max_tokens", 40))
    return GraphCaptionModel(dual.load(name, device), decoder, words, told)
