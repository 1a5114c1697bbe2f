"""What runs a graph: ONNX Runtime or OpenVINO, both on the CPU, behind one call."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.errors import ConfigError, ModelError, did_you_mean, require

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""From the graph's inputs by name to its first output. Threads may call it at once."""

GRAPHS = {"onnx": "graph.onnx", "openvino": "graph.xml"}
"""The graph's file in a tower's folder; OpenVINO's weights lie beside it in `graph.bin`."""


def open_onnx(path: Path) -> Run:
    """A graph in ONNX Runtime, on as many threads as torch uses."""
    runtime = require("onnxruntime", "export")
    _refuse_outside(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def open_openvino(path: Path) -> Run:
    """A graph in OpenVINO, on as many threads as torch uses.

    Where the graph is in single precision it computes in single precision: by default OpenVINO takes bfloat16 on CPUs
    that have it, and the vectors would depend on the machine.
    """
    openvino = require("openvino", "export")
    _refuse_other_formats(path)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    own = threading.local()  # a request holds buffers, and two threads may not share one

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(inputs)[0].copy()

    return run


def _refuse_outside(path: Path) -> None:
    """Stop at an ONNX graph whose weights lie in files other than `graph.*` beside it.

    ONNX Runtime opens the files that a graph names for its tensors, wherever in the graph these stand.
    """
    onnx, protobuf = require("onnx", "export"), require("google.protobuf.message", "export")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, ValueError, protobuf.DecodeError) as error:
        raise ModelError(f"'{path}' is no ONNX graph: {error}; export it again") from error
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and not re.fullmatch(rf"{re.escape(path.stem)}\.[\w.]+", entry.value):
                raise ModelError(f"'{path}' has weights in '{entry.value}', which is no file of the graph; not opened")


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of an ONNX graph: its weights, and those in attributes, functions and graphs inside it."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield inner
            else:
                yield from _tensors(inner)


def _refuse_other_formats(path: Path) -> None:
    """Stop at what is no graph of OpenVINO's own: it guesses formats, of which some read other files."""
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8", "replace")
    if not re.match(r"\s*(<\?xml[^>]*\?>\s*)?<net\s", head):
        raise ModelError(f"'{path}' is no graph of OpenVINO's own; export it again")


_OPENERS: dict[str, Callable[[Path], Run]] = {"onnx": open_onnx, "openvino": open_openvino}


def open_graph(engine: str, folder: Path) -> Run:
    """The graph in a tower's folder, ready to run.

    Raises:
        ConfigError: there is no such engine.
        MissingExtra: its package is not installed.
    """
    return _OPENERS[known_engine(engine)](folder / GRAPHS[engine])


def known_engine(engine: str) -> str:
    """The engine's name; an unknown one raises ConfigError."""
    if engine not in _OPENERS:
        raise ConfigError(f"there is no engine '{engine}'; {did_you_mean(engine, _OPENERS)}")
    return engine


Inputs = dict[str, np.ndarray]
