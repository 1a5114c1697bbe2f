"""A captioner as two graphs: one looks at a picture, the other spells its caption word by word."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diptych import dual
from diptych.checkpoints import loading, model_directory, read_card, refuse_unsafe
from diptych.decoding.decoder import CaptionDecoder
from diptych.decoding.grid import WORDS, GridWriter
from diptych.decoding.strategies import Caption, Wish
from diptych.decoding.words import START, Words
from diptych.dual import DualEncoder
from diptych.errors import ModelError
from diptych.export.engines import GRAPHS, open_graph
from diptych.export.graphs import tensors_of, traced_as
from diptych.export.int8 import Inputs
from diptych.export.parity import Parity, in_turn, of_vectors
from diptych.export.tower import graph_hash
from diptych.states import embed_states

FOLDER = "captioner"
_TIMED = 8  # pictures whose captions are timed
_SAID = 5  # words of a caption after which the next word's logits are compared

Writer = Callable[[Path, Path, Sequence[Inputs]], None]


class Look(nn.Module):
    """From preprocessed pictures to what captions are written from: (pictures, layers, 2, heads, places, width).

    These are the keys and values of the picture for each layer of the decoder.
    """

    def __init__(self, encoder: DualEncoder, decoder: CaptionDecoder, inputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.inputs = encoder, list(inputs)
        self.network, self.decoder = encoder.model, decoder

    def forward(self, *tensors: Tensor) -> Tensor:
        features = {**dict(zip(self.inputs, tensors, strict=True)), "modality": "image"}
        memory = self.decoder.look(embed_states(self.encoder, features))
        layers = [torch.stack(layer.cross.keys(memory), dim=1) for layer in self.decoder.layers]
        return torch.stack(layers, dim=1)


class Step(nn.Module):
    """From the words so far, (captions, length), and their pictures' keys and values to the next word's logits.

    It reads all words anew each time: captions are short, and what a cache would spare is little beside the picture.
    """

    def __init__(self, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *tensors: Tensor) -> Tensor:
        words, looked = tensors
        hidden = self.decoder._embed(words, 0)  # (captions, length, dim)
        for number, layer in enumerate(self.decoder.layers):
            hidden = layer(hidden, (looked[:, number, 0], looked[:, number, 1]))
        return self.decoder._logits(hidden[:, -1])  # (captions, words)


class GraphWriter(GridWriter):
    """Writes captions as `GridWriter` does, with graphs in the place of tower and decoder."""

    def __init__(self, encoder: DualEncoder, graphs: GraphDecoder, words: Words, told: dict[str, Any]) -> None:
        self.encoder, self.words, self.settings = encoder, words, told["settings"]
        self.habits = told.get("habits") or {}
        self.decoder: Any = graphs

    def write(self, prepared: dict[str, Any], wish: Wish, prefix: str, numbers: Sequence[int]) -> list[list[Caption]]:
        return self.from_memory(self.decoder.look(prepared), wish, prefix, numbers)


class GraphDecoder:
    """Both graphs, with the interface of `CaptionDecoder`."""

    def __init__(self, folder: Path, engine: str, inputs: Sequence[str], max_tokens: int) -> None:
        self.inputs, self.max_tokens = list(inputs), max_tokens
        self._look, self._step = open_graph(engine, folder / "look"), open_graph(engine, folder / "step")

    def look(self, prepared: dict[str, Any]) -> Tensor:
        inputs = {name: np.ascontiguousarray(prepared[name].cpu().numpy()) for name in self.inputs}
        return torch.from_numpy(self._look(inputs))

    def spell(self, looked: Tensor) -> GraphSpelling:
        """Begin captions of these pictures."""
        return GraphSpelling(self._step, looked.numpy())


class GraphSpelling:
    """Captions in the making, some for each picture."""

    def __init__(self, run: Callable[[Inputs], np.ndarray], looked: np.ndarray) -> None:
        self.run, self.looked = run, looked
        self.said = np.empty((0, 0), np.int64)
        self._each: np.ndarray | None = None  # the pictures' keys and values, once for each caption

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        """As `decoding.decoder.Spelling.step`: the logits of the next word, (captions, words)."""
        newest = words.numpy()[:, None]
        said = self.said if parents is None or not self.said.size else self.said[parents.numpy()]
        self.said = np.concatenate([said, newest], axis=1) if self.said.size else newest
        if self._each is None or len(self._each) != len(words):
            self._each = np.repeat(self.looked, len(words) // len(self.looked), axis=0)
        return torch.from_numpy(self.run({"words": self.said, "looked": self._each}))

    def keep(self, pictures: Tensor) -> None:
        """Go on with these pictures alone."""
        self.looked, self._each = self.looked[pictures.numpy()], None


def write_captioner(
    writer: GridWriter, source: Path, out: Path, pictures: Sequence[Image.Image], told: dict[str, str], save: Writer
) -> dict[str, Any]:
    """Write a captioner's graphs and words into an exported model's directory; returns what `diptych.json` is to say.

    `save` writes a graph in the engine's form and precision; every second picture calibrates it.
    """
    prepared = tensors_of(writer.prepare(pictures[:4]))
    decoder, folder = writer.decoder, out / FOLDER
    looking = Look(writer.encoder, decoder, list(prepared))
    with torch.no_grad():
        looked = looking(*prepared.values())
    words = torch.tensor([[START, *([START + 1] * (_SAID - 1))]] * len(looked))
    key = f"{told['of']}-{_weights_hash(decoder)}"
    graphs = {
        "look": traced_as(f"{key}-look", looking, prepared),
        "step": traced_as(f"{key}-step", Step(decoder), {"words": words, "looked": looked}),
    }
    each = [tensors_of(writer.prepare([picture])) for picture in pictures[1::2]] if told["precision"] == "int8" else []
    calibration = [{name: value.numpy() for name, value in tensors.items()} for tensors in each]
    for name, graph in graphs.items():
        (folder / name).mkdir(parents=True)
        save(graph, folder / name / GRAPHS[told["engine"]], calibration)
    shutil.copyfile(source / WORDS, out / WORDS)
    hashes = {name: graph_hash(folder / name, told["engine"]) for name in graphs}
    card = read_card(source)["captioner"]
    return {**card, "graphs": {"engine": told["engine"], "inputs": list(prepared), "sha256": hashes}}


def measure_captioner(
    before: GridWriter, after: GridWriter, pictures: Sequence[Image.Image], captions: Sequence[str]
) -> Parity:
    """Compare the next word's logits, as unit vectors, after the first words of captions; time captions by beam 3."""
    begun = [[START, *before.words.encode(caption)[:_SAID]] for caption in captions]
    pairs = list(zip(pictures, begun, strict=False))
    old, new = (np.stack([_logits(writer, *pair) for pair in pairs]) for writer in (before, after))
    some = before.prepare(pictures[:_TIMED])
    seen, wish = len(pictures[:_TIMED]), Wish(beams=3)
    first, second = in_turn(*(lambda w=w: w.write(dict(some), wish, "", range(seen)) for w in (before, after)))
    return of_vectors("captioner", old, new, (seen / first, seen / second))


def has_graphs(path: Path) -> bool:
    """Whether a model's directory holds a captioner as graphs."""
    return (path / FOLDER / "look").is_dir()


def load_graph_writer(name: str | Path, device: str = "auto") -> GraphWriter:
    """The captioner of an exported model.

    Raises:
        ModelError: its files do not fit together, or are not those that were checked.
        MissingExtra: the engine is not installed.
    """
    path = model_directory(name)
    refuse_unsafe(path)
    with loading(f"the captioner of '{name}'"):
        told = read_card(path)["captioner"]
        graphs, settings = told["graphs"], told["settings"]
        for part, expected in graphs["sha256"].items():
            if graph_hash(path / FOLDER / part, graphs["engine"]) != expected:
                raise ModelError(f"'{path / FOLDER / part}' holds no graph that was checked; export it again")
        words = Words((path / WORDS).read_text("utf-8").split())
        decoder = GraphDecoder(path / FOLDER, graphs["engine"], graphs["inputs"], settings.get("max_tokens", 40))
    return GraphWriter(dual.load(name, device), decoder, words, told)


@torch.inference_mode()
def _logits(writer: GridWriter, picture: Image.Image, words: Sequence[int]) -> np.ndarray:
    """The logits of the next word, of unit length: (words,)."""
    prepared = writer.prepare([picture])
    seen: Any = prepared if isinstance(writer, GraphWriter) else embed_states(writer.encoder, prepared)
    spelling = writer.decoder.spell(writer.decoder.look(seen))
    for word in words:
        logits = spelling.step(torch.tensor([word]))
    vector = logits[0].double().numpy()
    return vector / np.linalg.norm(vector)


def _weights_hash(decoder: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in decoder.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
