"""Export of a captioner as two graphs: one encodes an image, the other predicts the next word of its caption."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.graph_captioner import FOLDER, GraphCaptionModel
from diptych.captioning.grid_captioner import WORDS, GridCaptionModel
from diptych.captioning.strategies import GenerationConfig
from diptych.captioning.vocabulary import START
from diptych.export.metadata import CaptionerGraphs, ExportTarget
from diptych.export.parity import Parity, alternating_medians, parity_of
from diptych.models.checkpoints import Metadata, read_metadata
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import compute_hidden_states
from diptych.models.onnx.engines import GRAPHS, Inputs
from diptych.models.onnx.exported_tower import graph_hash
from diptych.models.onnx.graphs import tensors_of, traced_as

_TIMED_IMAGES = 8
_PREFIX_WORDS = 5  # words of a caption after which the logits of the next word are compared

SaveGraph = Callable[[Path, Path, Sequence[Inputs]], None]
"""Saves an ONNX graph (first path) in the form of an engine (second path), calibrated on inputs if it is int8."""


class Look(nn.Module):
    """From preprocessed images to the decoder's keys and values of them: (images, layers, 2, heads, places, width)."""

    def __init__(self, encoder: DualEncoder, decoder: CaptionDecoder, inputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.inputs = encoder, list(inputs)
        self.network, self.decoder = encoder.model, decoder

    def forward(self, *tensors: Tensor) -> Tensor:
        """The keys and values of the images whose preprocessed tensors these are, in the order of `inputs`."""
        features = {**dict(zip(self.inputs, tensors, strict=True)), "modality": "image"}
        memory = self.decoder.encode(compute_hidden_states(self.encoder, features))
        layers = [torch.stack(layer.cross_attn.keys_values(memory), dim=1) for layer in self.decoder.layers]
        return torch.stack(layers, dim=1)


class Step(nn.Module):
    """From the words so far (captions, length) and the images' keys and values to the next word's logits.

    It has no key-value cache and reads all words at each step: captions are short, so a cache would save little.
    """

    def __init__(self, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *tensors: Tensor) -> Tensor:
        """The logits of the next word, (captions, words)."""
        words, looked = tensors
        hidden = self.decoder.embed(words, 0)  # (captions, length, dim)
        for number, layer in enumerate(self.decoder.layers):
            hidden = layer(hidden, (looked[:, number, 0], looked[:, number, 1]))
        return self.decoder.logits(hidden[:, -1])  # (captions, words)


def write_captioner(
    model: GridCaptionModel,
    source: Path,
    out: Path,
    images: Sequence[Image.Image],
    target: ExportTarget,
    save: SaveGraph,
) -> Metadata:
    """Write the graphs and the vocabulary of a captioner to the directory of an exported model.

    `source` is the directory of the original model. `images` are examples for tracing; for int8 every second one
    calibrates the graphs. Returns the part `captioner` of the exported model's `diptych.json`.
    """
    features = tensors_of(model.prepare(images[:4]))
    folder = out / FOLDER
    graphs = _trace(model, features, target.model)
    calibration = _calibration(model, images[1::2]) if target.precision == "int8" else []
    for name, graph in graphs.items():
        (folder / name).mkdir(parents=True)
        save(graph, folder / name / GRAPHS[target.engine], calibration)
    shutil.copyfile(source / WORDS, out / WORDS)
    hashes = {name: graph_hash(folder / name, target.engine) for name in graphs}
    files = CaptionerGraphs(engine=target.engine, inputs=list(features), sha256=hashes)
    return {**read_metadata(source)["captioner"], "graphs": files}


def _trace(model: GridCaptionModel, features: dict[str, Tensor], identity: str) -> dict[str, Path]:
    """The ONNX graphs `look` and `step`, from the cache if they were traced before."""
    look = Look(model.encoder, model.decoder, list(features))
    with torch.no_grad():
        looked = look(*features.values())
    words = torch.tensor([[START, *([START + 1] * (_PREFIX_WORDS - 1))]] * len(looked))
    key = f"{identity}-{_weights_hash(model.decoder)}"
    return {
        "look": traced_as(f"{key}-look", look, features),
        "step": traced_as(f"{key}-step", Step(model.decoder), {"words": words, "looked": looked}),
    }


def _calibration(model: GridCaptionModel, images: Sequence[Image.Image]) -> list[Inputs]:
    """The inputs of each image alone."""
    features = (tensors_of(model.prepare([image])) for image in images)
    return [{name: value.numpy() for name, value in tensors.items()} for tensors in features]


def measure_captioner(
    before: GridCaptionModel, after: GridCaptionModel, images: Sequence[Image.Image], captions: Sequence[str]
) -> Parity:
    """Compare the logits of the next word after the first words of captions, as unit vectors, and the speed.

    The rates are captions per second with beam search (3 beams).
    """
    prefixes = [[START, *before.words.encode(caption)[:_PREFIX_WORDS]] for caption in captions]
    pairs = list(zip(images, prefixes, strict=False))
    old, new = (np.stack([_next_logits(model, *pair) for pair in pairs]) for model in (before, after))
    features = before.prepare(images[:_TIMED_IMAGES])
    count, config = len(images[:_TIMED_IMAGES]), GenerationConfig(beams=3)
    first, second = alternating_medians(
        *(lambda model=model: model.generate(dict(features), config, "", range(count)) for model in (before, after))
    )
    return parity_of("captioner", old, new, (count / first, count / second))


@torch.inference_mode()
def _next_logits(model: GridCaptionModel, image: Image.Image, words: Sequence[int]) -> NDArray[np.float64]:
    """The logits of the next word, normalized to unit length: (words,)."""
    features = model.prepare([image])
    if isinstance(model, GraphCaptionModel):
        memory = model.decoder.encode(features)
    else:
        memory = model.decoder.encode(compute_hidden_states(model.encoder, features))
    state = model.decoder.start(memory)
    for word in words:
        logits = state.step(torch.tensor([word]))
    values = logits[0].double().numpy()
    return values / np.linalg.norm(values)


def _weights_hash(decoder: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in decoder.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
