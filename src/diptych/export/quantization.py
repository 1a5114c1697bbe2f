"""Int8 quantization of graphs: about a quarter of the size, and often twice as fast on a CPU.

Convolutional networks are quantized statically by ONNX Runtime: the value ranges of their activations are calibrated on
images. Transformers are not, because the ranges of their matrix products differ from text to text and fixed ones cost
accuracy (mini's text tower: mean cosine 0.74). ONNX Runtime measures them at each call instead (dynamic quantization),
and OpenVINO stores only the weights in int8, which its CPU plugin also computes with.
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

_MATRIX_PRODUCTS = ("MatMul", "Gemm")


def quantize_onnx(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    """Quantize an ONNX graph to int8 and write it to `out`. `calibration` are the inputs of single images.

    Raises:
        MissingExtra: `onnx` or `onnxruntime` is not installed.
    """
    onnx = require("onnx", "export")
    quantization = require("onnxruntime.quantization", "export")
    model = onnx.load(str(graph))
    # These shapes date from before torch transposed weights; the quantizers rely on them and fail.
    del model.graph.value_info[:]
    _untie_weights(model)
    with silence():
        if is_convolutional(model):
            quantization.quantize_static(
                model,
                str(out),
                _CalibrationReader(calibration),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
            )
        else:
            quantization.quantize_dynamic(model, str(out), per_channel=True)


def quantize_openvino(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    """Quantize an ONNX graph to int8 and write it as an OpenVINO model: `out` (.xml) and its weights beside it.

    Raises:
        MissingExtra: `onnx`, `onnxruntime`, `openvino` or `nncf` is not installed.
    """
    onnx, openvino = require("onnx", "export"), require("openvino", "export")
    if is_convolutional(onnx.load(str(graph))):
        quantized = out.with_name("int8.onnx")
        quantize_onnx(graph, quantized, calibration)
        openvino.save_model(openvino.convert_model(str(quantized)), str(out), compress_to_fp16=False)
        quantized.unlink()
        return
    nncf = require("nncf", "export")
    with silence(), contextlib.redirect_stdout(io.StringIO()):
        model = nncf.compress_weights(openvino.convert_model(str(graph)), mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, str(out), compress_to_fp16=False)


def _untie_weights(model: Any) -> None:
    """Give each Gemm node its own copy of shared weights, because the quantizer transposes them in place."""
    onnx = require("onnx", "export")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in weights and sum(name in other.input for other in model.graph.node) > 1:
            copy = onnx.TensorProto()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name}_of_{node.name}"
            model.graph.initializer.append(copy)


def is_convolutional(model: Any) -> bool:
    """Whether an ONNX model has more convolutions than matrix products. A ViT has one convolution, its patches."""
    kinds = [node.op_type for node in model.graph.node]
    return kinds.count("Conv") > sum(kinds.count(product) for product in _MATRIX_PRODUCTS)


class _CalibrationReader:
    """Calibration inputs one by one, in the interface of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, calibration: Sequence[Inputs]) -> None:
        self.remaining = iter(calibration)

    def get_next(self) -> Inputs | None:
        return next(self.remaining, None)
