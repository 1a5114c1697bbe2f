"""Graphs in eight bits: about a quarter of the size, and often twice as fast on a CPU.

Convolutions need to know the range of what flows through them, so they are calibrated on pictures (ONNX Runtime's
static quantisation). The matrix products of transformers have ranges that differ from text to text, which a fixed
range serves badly (mini's text tower: cosine 0.74); so ONNX Runtime measures them at each call (dynamic quantisation),
and OpenVINO keeps the weights alone in eight bits, which its CPU plugin also computes with.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.errors import require
from diptych.models.onnx.engines import Inputs
from diptych.models.onnx.graphs import silence

_PRODUCTS = ("MatMul", "Gemm")


def onnx_int8(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    """Write the ONNX graph `graph` in eight bits to `out`; `calibration` are inputs of one picture each."""
    onnx = require("onnx", "export")
    quantization = require("onnxruntime.quantization", "export")
    model = onnx.load(str(graph))
    del model.graph.value_info[:]  # of shapes before torch transposed weights; the quantisers trust them and stop
    _untie(model)
    with silence():
        if is_convolutional(model):
            quantization.quantize_static(
                model, str(out), _Reader(calibration), per_channel=True, activation_type=quantization.QuantType.QUInt8
            )
        else:
            quantization.quantize_dynamic(model, str(out), per_channel=True)


def openvino_int8(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    """Write the ONNX graph `graph` in eight bits as OpenVINO's `out` (.xml) and its weights."""
    onnx, openvino = require("onnx", "export"), require("openvino", "export")
    if is_convolutional(onnx.load(str(graph))):
        quantised = out.with_name("int8.onnx")
        onnx_int8(graph, quantised, calibration)
        openvino.save_model(openvino.convert_model(str(quantised)), str(out), compress_to_fp16=False)
        quantised.unlink()
        return
    nncf = require("nncf", "export")
    with silence(), contextlib.redirect_stdout(io.StringIO()):
        model = nncf.compress_weights(openvino.convert_model(str(graph)), mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, str(out), compress_to_fp16=False)


def _untie(model: Any) -> None:
    """Give each Gemm weights of its own: the quantiser transposes them in place, and others may read them too."""
    onnx = require("onnx", "export")
    weights = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in weights and sum(name in other.input for other in model.graph.node) > 1:
            own = onnx.TensorProto()
            own.CopyFrom(weights[name])
            own.name = node.input[1] = f"{name}_of_{node.name}"
            model.graph.initializer.append(own)


def is_convolutional(model: Any) -> bool:
    """Whether an ONNX graph has more convolutions than matrix products; a ViT has one convolution, its patches."""
    kinds = [node.op_type for node in model.graph.node]
    return kinds.count("Conv") > sum(kinds.count(product) for product in _PRODUCTS)


class _Reader:
    """Calibration inputs one by one, as ONNX Runtime asks for them."""

    def __init__(self, calibration: Sequence[Inputs]) -> None:
        self.remaining = iter(calibration)

    def get_next(self) -> Inputs | None:
        return next(self.remaining, None)
