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

from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.graph_captioner import FOLDER, GraphCaptionModel
from diptych.captioning.grid_captioner import WORDS, GridCaptionModel
from diptych.captioning.strategies import GenerationConfig
from diptych.captioning.vocabulary import START
from diptych.export.parity import Parity, in_turn, of_vectors
from diptych.models.checkpoints import read_metadata
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import compute_hidden_states
from diptych.models.onnx.engines import GRAPHS, Inputs
from diptych.models.onnx.exported_tower import graph_hash
from diptych.models.onnx.graphs import tensors_of, traced_as

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
        memory = self.decoder.encode(compute_hidden_states(self.encoder, features))
        layers = [torch.stack(layer.cross_attn.keys_values(memory), dim=1) for layer in self.decoder.layers]
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
        hidden = self.decoder.embed(words, 0)  # (captions, length, dim)
        for number, layer in enumerate(self.decoder.layers):
            hidden = layer(hidden, (looked[:, number, 0], looked[:, number, 1]))
        return self.decoder.logits(hidden[:, -1])  # (captions, words)


def write_captioner(
    writer: GridCaptionModel,
    source: Path,
    out: Path,
    pictures: Sequence[Image.Image],
    told: dict[str, str],
    save: Writer,
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
    card = read_metadata(source)["captioner"]
    return {**card, "graphs": {"engine": told["engine"], "inputs": list(prepared), "sha256": hashes}}


def measure_captioner(
    before: GridCaptionModel, after: GridCaptionModel, pictures: Sequence[Image.Image], captions: Sequence[str]
) -> Parity:
    """Compare the next word's logits, as unit vectors, after the first words of captions; time captions by beam 3."""
    begun = [[START, *before.words.encode(caption)[:_SAID]] for caption in captions]
    pairs = list(zip(pictures, begun, strict=False))
    old, new = (np.stack([_logits(writer, *pair) for pair in pairs]) for writer in (before, after))
    some = before.prepare(pictures[:_TIMED])
    seen, wish = len(pictures[:_TIMED]), GenerationConfig(beams=3)
    first, second = in_turn(*(lambda w=w: w.write(dict(some), wish, "", range(seen)) for w in (before, after)))
    return of_vectors("captioner", old, new, (seen / first, seen / second))


@torch.inference_mode()
def _logits(writer: GridCaptionModel, picture: Image.Image, words: Sequence[int]) -> np.ndarray:
    """The logits of the next word, of unit length: (words,)."""
    prepared = writer.prepare([picture])
    seen: Any = prepared if isinstance(writer, GraphCaptionModel) else compute_hidden_states(writer.encoder, prepared)
    spelling = writer.decoder.start(writer.decoder.encode(seen))
    for word in words:
        logits = spelling.step(torch.tensor([word]))
    vector = logits[0].double().numpy()
    return vector / np.linalg.norm(vector)


def _weights_hash(decoder: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in decoder.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
