"""Networks as ONNX graphs in single precision: a route of a dual encoder, tower and head together, and others."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import ModelError, require
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import EMBEDDING
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir


class Route(nn.Module):
    """A route as a function of its inputs in a fixed order, to unit vectors (batch, dim)."""

    def __init__(self, modules: Sequence[nn.Module], inputs: Sequence[str], modality: str) -> None:
        super().__init__()
        self.steps, self.inputs, self.modality = nn.ModuleList(modules), list(inputs), modality

    def forward(self, *tensors: Tensor) -> Tensor:
        features: dict[str, Any] = {**dict(zip(self.inputs, tensors, strict=True)), "modality": self.modality}
        for step in self.steps:
            features = step(features)
        return functional.normalize(features[EMBEDDING].float(), dim=-1)


def tensors_of(features: dict[str, Any]) -> dict[str, Tensor]:
    """What of preprocessed pictures or texts goes into the network."""
    return {name: value.contiguous() for name, value in features.items() if isinstance(value, Tensor)}


def traced(encoder: DualEncoder, modality: str, features: dict[str, Any], key: str) -> Path:
    """A route as a graph in the cache folder: tracing takes half a minute, and every engine and precision needs it.

    `features` are preprocessed examples, at least two; `key` is the encoder's identity.

    Raises:
        MissingExtra: `onnx` or `onnxscript` is not installed.
        ModelError: torch cannot trace the tower.
    """
    tensors = tensors_of(features)
    return traced_as(f"{key}-{modality}", Route(encoder.route(modality), list(tensors), modality), tensors)


def traced_as(key: str, network: nn.Module, inputs: dict[str, Tensor]) -> Path:
    """A network as a graph in the cache folder, under `key`; raises as `traced`.

    A graph is used again by the versions of diptych and torch that made it, for inputs of the same names in that order.
    """
    versions = f"diptych{importlib.metadata.version('diptych')}-torch{torch.__version__}"
    entry = cache_dir() / "graphs" / f"{key}-{'-'.join(inputs)}-{versions}"
    if not entry.exists():
        with new_folder(entry) as folder:
            write_graph(network, inputs, folder / "graph.onnx")
    return entry / "graph.onnx"


def write_graph(network: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Trace a network on examples, at least two of them, and write it to `path`; raises as `traced`.

    Its `forward` takes `*tensors` alone. The graph takes any number of items, and where an input is (items, length) any
    length that the network reads.
    """
    require("onnx", "export")
    require("onnxscript", "export")
    # AUTO follows the sizes that the network lets vary: SigLIP's texts always have one length, CLIP's do not.
    auto = torch.export.Dim.AUTO
    free = tuple({0: auto, 1: auto} if value.ndim == 2 else {0: auto} for value in inputs.values())
    try:
        with torch.no_grad(), silence():
            torch.onnx.export(
                network.eval(),
                tuple(inputs.values()),
                str(path),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=list(inputs),
                output_names=["output"],
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # what stands above it says only which step failed
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ModelError(f"torch cannot write the model as an ONNX graph: {reason}") from error


@contextmanager
def silence() -> Iterator[None]:
    """Keep the notes of torch's exporter and of the quantisers off people's screens; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
