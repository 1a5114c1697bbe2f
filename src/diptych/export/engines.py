"""What runs a graph: ONNX Runtime or OpenVINO, both on the CPU, behind one call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from diptych.errors import ConfigError, did_you_mean, require

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""From the graph's inputs by name to its first output. Threads may call it at once."""

GRAPHS = {"onnx": "graph.onnx", "openvino": "graph.xml"}
"""The graph's file in a tower's folder; OpenVINO's weights lie beside it in `graph.bin`."""


def open_onnx(path: Path) -> Run:
    """A graph in ONNX Runtime, on as many threads as torch uses."""
    runtime = require("onnxruntime", "export")
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
