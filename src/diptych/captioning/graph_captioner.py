"""The caption model of an exported directory: an encoder graph and a decoder graph, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import shutil
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
from diptych.models import dual_encoder
from diptych.models.checkpoints import Metadata, loading, model_directory, read_metadata, refuse_unsafe, write_metadata
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.onnx.engines import Inputs, open_graph
from diptych.models.onnx.exported_tower import graph_hash

FOLDER = "captioner"


class GraphCaptionModel(GridCaptionModel):
    """A `GridCaptionModel` whose tower and decoder are graphs; `section` is that of `diptych.json`."""

    def __init__(self, encoder: DualEncoder, graphs: GraphDecoder, words: Words, section: Metadata) -> None:
        self.encoder, self.words, self.settings = encoder, words, section["settings"]
        self.defaults = section.get("habits") or {}
        self.section = section
        self.decoder: Any = graphs

    def generate(
        self, prepared: Features, config: GenerationConfig, prefix: str, image_seeds: Sequence[int]
    ) -> list[list[Caption]]:
        """Captions of each prepared image, best first."""
        return self.from_memory(self.decoder.encode(prepared), config, prefix, image_seeds)

    def save(self, path: str | Path) -> None:
        """Write encoder, graphs and vocabulary to one directory."""
        path = Path(path)
        self.encoder.save_pretrained(path)
        if path.resolve() != self.decoder.folder.parent.resolve():
            shutil.copytree(self.decoder.folder, path / FOLDER, dirs_exist_ok=True)
        (path / WORDS).write_text("\n".join(self.words.words) + "\n", "utf-8")
        write_metadata(path, {**read_metadata(path), "captioner": self.section})


class GraphDecoder:
    """Both graphs behind the interface of `CaptionDecoder`.

    Args:
        folder: Directory with the graphs `look` (image to memory) and `step` (words and memory to logits).
        engine: `onnx` or `openvino`.
        inputs: Names of the tensors that the image graph reads.
        max_tokens: Maximum number of words of a caption.
    """

    def __init__(self, folder: Path, engine: str, inputs: Sequence[str], max_tokens: int) -> None:
        self.folder, self.inputs, self.max_tokens = folder, list(inputs), max_tokens
        self._encode, self._step = open_graph(engine, folder / "look"), open_graph(engine, folder / "step")

    def encode(self, prepared: Features) -> Tensor:
        """Preprocessed images to memory: (images, layers, 2, heads, patches, width), keys and values of each layer."""
        inputs = {name: np.ascontiguousarray(prepared[name].cpu().numpy()) for name in self.inputs}
        return torch.from_numpy(self._encode(inputs))

    def start(self, memory: Tensor) -> GraphDecodingState:
        """A decoding state for captions of these images."""
        return GraphDecodingState(self._step, memory.numpy())


class GraphDecodingState:
    """Partial captions, several for each image. The decoder graph reads all of their words at every step."""

    def __init__(self, run: Callable[[Inputs], np.ndarray], memory: np.ndarray) -> None:
        self.run, self.memory = run, memory
        self.words = np.empty((0, 0), np.int64)
        self._repeated: np.ndarray | None = None  # the memory, one row for each caption

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """Append one word to each caption and return the next logits: (captions, vocabulary).

        As `decoder.DecodingState.step`.
        """
        newest = words.numpy()[:, None]
        previous = self.words if parents is None or not self.words.size else self.words[parents.numpy()]
        self.words = np.concatenate([previous, newest], axis=1) if self.words.size else newest
        if self._repeated is None or len(self._repeated) != len(words):
            self._repeated = np.repeat(self.memory, len(words) // len(self.memory), axis=0)
        return torch.from_numpy(self.run({"words": self.words, "looked": self._repeated}))

    def keep(self, images: Tensor) -> None:
        """Continue with the images at these rows only."""
        self.memory, self._repeated = self.memory[images.numpy()], None


def has_graphs(path: Path) -> bool:
    """Whether a model directory holds a captioner as graphs."""
    return (path / FOLDER / "look").is_dir()


def load_graph_model(name: str | Path, device: str = "auto") -> GraphCaptionModel:
    """Load the captioner of an exported model.

    Raises:
        ModelError: Its files do not fit together, or a graph's hash is not the one in `diptych.json`.
        MissingExtra: The engine is not installed.
    """
    path = model_directory(name)
    refuse_unsafe(path)
    with loading(f"the captioner of '{name}'"):
        section = read_metadata(path)["captioner"]
        graphs, settings = section["graphs"], section["settings"]
        for part, expected in graphs["sha256"].items():
            if graph_hash(path / FOLDER / part, graphs["engine"]) != expected:
                raise ModelError(f"the graph in '{path / FOLDER / part}' was changed after export; export it again")
        words = Words((path / WORDS).read_text("utf-8").split())
        decoder = GraphDecoder(path / FOLDER, graphs["engine"], graphs["inputs"], settings.get("max_tokens", 40))
    return GraphCaptionModel(dual_encoder.load(name, device), decoder, words, section)
