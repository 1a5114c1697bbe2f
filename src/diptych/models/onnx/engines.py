"""Inference engines: ONNX Runtime and OpenVINO on the CPU, behind one call."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.errors import ConfigError, ModelError, did_you_mean, require

Inputs = dict[str, np.ndarray]
"""Inputs of a graph by name."""

Run = Callable[[Inputs], np.ndarray]
"""Runs a graph and returns its first output. Thread-safe."""

GRAPHS = {"onnx": "graph.onnx", "openvino": "graph.xml"}
"""File name of the graph by engine; OpenVINO's weights are in `graph.bin` beside it."""


def open_onnx(path: Path) -> Run:
    """Open a graph in ONNX Runtime, with as many threads as torch uses.

    Raises:
        MissingExtra: `onnxruntime` or `onnx` is not installed.
        ModelError: It is not an ONNX graph, or reads other files.
    """
    runtime = require("onnxruntime", "export")
    _refuse_outside(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def open_openvino(path: Path) -> Run:
    """Open a graph in OpenVINO, with as many threads as torch uses.

    Single-precision graphs are computed in single precision. OpenVINO's default is bfloat16 on CPUs that support it,
    which would make embeddings depend on the machine.

    Raises:
        MissingExtra: `openvino` is not installed.
        ModelError: It is not a graph of OpenVINO's own format.
    """
    openvino = require("openvino", "export")
    _refuse_other_formats(path)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    own = threading.local()  # a request holds buffers that threads must not share

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(inputs)[0].copy()

    return run


def _refuse_outside(path: Path) -> None:
    """Refuse an ONNX graph with weights in files other than `graph.*` beside it.

    ONNX Runtime opens every file that a tensor of the graph names.
    """
    onnx, protobuf = require("onnx", "export"), require("google.protobuf.message", "export")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, ValueError, protobuf.DecodeError) as error:
        raise ModelError(f"'{path}' is not an ONNX graph: {error}; export it again") from error
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and not re.fullmatch(rf"{re.escape(path.stem)}\.[\w.]+", entry.value):
                raise ModelError(
                    f"'{path}' has weights in '{entry.value}', which is not a file of the graph; it is not opened"
                )


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of an ONNX graph, including those in attributes, functions and subgraphs."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield inner
            else:
                yield from _tensors(inner)


def _refuse_other_formats(path: Path) -> None:
    """Refuse files that are not in OpenVINO's own format: it guesses formats, and some of them read other files."""
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8", "replace")
    if not re.match(r"\s*(<\?xml[^>]*\?>\s*)?<net\s", head):
        raise ModelError(f"'{path}' is not a graph of OpenVINO's own format; export it again")


_OPENERS: dict[str, Callable[[Path], Run]] = {"onnx": open_onnx, "openvino": open_openvino}


def open_graph(engine: str, folder: Path) -> Run:
    """Open the graph in a folder.

    Args:
        engine: `onnx` or `openvino`.
        folder: Folder with the graph.

    Raises:
        ConfigError: There is no such engine.
        MissingExtra: Its package is not installed.
        ModelError: The graph is damaged or reads other files.
    """
    return _OPENERS[known_engine(engine)](folder / GRAPHS[engine])


def known_engine(engine: str) -> str:
    """The engine's name.

    Raises:
        ConfigError: There is no such engine.
    """
    if engine not in _OPENERS:
        raise ConfigError(f"unknown engine '{engine}'; {did_you_mean(engine, _OPENERS)}")
    return engine
