"""Tracing networks as single-precision ONNX graphs: routes of a dual encoder and other modules."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.errors import ModelError, require
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import EMBEDDING, Features
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir


class Route(nn.Module):
    """A route as a function of its input tensors in a fixed order, to unit vectors (batch, dim)."""

    def __init__(self, modules: Sequence[nn.Module], inputs: Sequence[str], modality: str) -> None:
        super().__init__()
        self.steps, self.inputs, self.modality = nn.ModuleList(modules), list(inputs), modality

    def forward(self, *tensors: Tensor) -> Tensor:
        """Unit vectors (batch, dim) of the inputs, in the order of their names."""
        features: Features = {**dict(zip(self.inputs, tensors, strict=True)), "modality": self.modality}
        for step in self.steps:
            features = step(features)
        return functional.normalize(features[EMBEDDING].float(), dim=-1)


def tensors_of(features: Features) -> dict[str, Tensor]:
    """The tensors among preprocessed inputs."""
    return {name: value.contiguous() for name, value in features.items() if isinstance(value, Tensor)}


def traced(encoder: DualEncoder, modality: str, features: Features, key: str) -> Path:
    """A route as a graph in the cache folder. Tracing takes half a minute, and all engines and precisions share it.

    Args:
        encoder: The dual encoder.
        modality: `image` or `text`.
        features: At least two preprocessed examples.
        key: Fingerprint of the encoder.

    Raises:
        MissingExtra: `onnx` or `onnxscript` is not installed.
        ModelError: torch cannot trace the tower.
    """
    tensors = tensors_of(features)
    return traced_as(f"{key}-{modality}", Route(encoder.route(modality), list(tensors), modality), tensors)


def traced_as(key: str, network: nn.Module, inputs: dict[str, Tensor]) -> Path:
    """A network as a graph in the cache folder, under `key`; errors are those of `traced`.

    A cached graph is used by the same versions of diptych and torch, for inputs of the same names in the same order.
    """
    versions = f"diptych{importlib.metadata.version('diptych')}-torch{torch.__version__}"
    entry = cache_dir() / "graphs" / f"{key}-{'-'.join(inputs)}-{versions}"
    if not entry.exists():
        with new_folder(entry) as folder:
            write_graph(network, inputs, folder / "graph.onnx")
    return entry / "graph.onnx"


def write_graph(network: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Trace a network on at least two examples and write it to `path`; errors are those of `traced`.

    Its `forward` takes `*tensors`. The graph accepts any number of items, and any length that the network accepts for
    inputs of (items, length).
    """
    require("onnx", "export")
    require("onnxscript", "export")
    # AUTO finds out which sizes may vary: SigLIP's texts have a fixed length, CLIP's do not.
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
        while cause.__cause__ is not None:  # the errors above it only name the step that failed
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ModelError(f"torch cannot write the model as an ONNX graph: {reason}") from error


@contextmanager
def silence() -> Iterator[None]:
    """Suppress logs and warnings of torch's exporter and of the quantizers; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
