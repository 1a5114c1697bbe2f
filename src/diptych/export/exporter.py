"""Export of a model's towers and captioner as ONNX or OpenVINO graphs, with a check against the original.

The exported directory has the layout of every other model. Each route of the encoder is one `ExportedTower`, which
replaces tower, pooling and head.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router

from diptych.captioning.graph_captioner import load_graph_model
from diptych.captioning.grid_captioner import GridCaptionModel, has_captioner, load_grid_model
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError, ModelError, did_you_mean, require
from diptych.export.captioner import SaveGraph, measure_captioner, write_captioner
from diptych.export.metadata import ExportTarget, write_metadata
from diptych.export.parity import TOLERANCES, ModelInputs, Parity, Tolerance, check_parity, measure_parity, preprocess
from diptych.export.quantization import quantize_onnx, quantize_openvino
from diptych.models.checkpoints import model_directory
from diptych.models.dual_encoder import DualEncoder, load
from diptych.models.embedding_cache import decode_all
from diptych.models.onnx.engines import GRAPHS, Inputs, known_engine
from diptych.models.onnx.exported_tower import ExportedTower, read_front, write_front
from diptych.models.onnx.graphs import tensors_of, traced
from diptych.models.open_clip.names import is_named
from diptych.models.two_towers import MODALITIES
from diptych.runtime.atomic import new_folder
from diptych.runtime.quiet import quiet

_MAX_IMAGES, _MAX_CAPTIONS = 128, 512
_MIN_EXAMPLES = 4


class _Examples(TypedDict):
    """Images and captions by modality."""

    image: list[Image.Image]
    text: list[str]


@dataclass(frozen=True, slots=True)
class Export:
    """An exported model: its directory, format, size in bytes before (weights) and after (files), and parities."""

    out: Path
    engine: str
    precision: str
    bytes_before: int
    bytes_after: int
    graphs: tuple[Parity, ...]


def export_model(
    name: str | Path,
    out: str | Path,
    *,
    data: Pairs,
    engine: str = "onnx",
    precision: str = "fp32",
    tolerance: Tolerance | None = None,
) -> Export:
    """Export a model's towers, and its captioner, as graphs in the new folder `out`, and check them on `data`.

    `engine` is `onnx` or `openvino`, `precision` is `fp32` or `int8`. Up to 128 images and 512 captions are used; for
    int8 every second one calibrates the graphs and the others check them. `tolerance` is by default that of
    `TOLERANCES`. If the check fails, nothing is left at `out`. Matchers and prompters are not exported, because they
    read the hidden states of the towers.

    Raises:
        ModelError: there is no such model, torch cannot trace it, or its embeddings deviate by more than `tolerance`.
        ConfigError: `out` exists, or the engine or precision is unknown.
        DataError: `data` has fewer than four images or captions.
        MissingExtra: a package of the extra `export` is not installed.
    """
    out = Path(out)
    _check_arguments(out, engine, precision)
    encoder = load(name, "cpu")
    if any(isinstance(module, ExportedTower) for module in encoder.route("image")):
        raise ModelError(f"'{name}' is already an exported model; export the model that it was made from")
    target = ExportTarget(encoder.fingerprint(), engine, precision)
    examples: _Examples = {"image": _images(encoder, data), "text": _captions(data)}
    captioner = load_grid_model(name, "cpu") if _has_captioner(name) else None
    with new_folder(out) as folder:
        _write_towers(encoder, folder, examples, target)
        metadata = None
        if captioner:
            save = _SAVERS[engine, precision]
            metadata = write_captioner(captioner, model_directory(name), folder, examples["image"], target, save)
        write_metadata(name, encoder, folder, target, metadata)
        parities = []
        for parity in _parities(encoder, captioner, folder, examples, step=2 if precision == "int8" else 1):
            check_parity(parity, tolerance or TOLERANCES[precision])
            parities.append(parity)
        write_metadata(name, encoder, folder, target, metadata, parities)
        after = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    before = sum(weight.numel() * weight.element_size() for weight in encoder.model.parameters())
    return Export(out, engine, precision, before, after, tuple(parities))


def _check_arguments(out: Path, engine: str, precision: str) -> None:
    """Check what can be checked before the model is loaded."""
    known_engine(engine)
    if precision not in TOLERANCES:
        raise ConfigError(f"there is no precision '{precision}'; {did_you_mean(precision, TOLERANCES)}")
    if out.exists():
        raise ConfigError(f"'{out}' exists already; choose a new folder")
    for module in _REQUIRED[engine, precision]:
        require(module, "export")


def _write_towers(encoder: DualEncoder, out: Path, examples: _Examples, target: ExportTarget) -> None:
    """Write both routes as graphs, in sentence-transformers' layout."""
    routes: dict[str, list[Module]] = {}
    for modality in MODALITIES:
        folder = out / f"{modality}_0_{ExportedTower.__name__}"
        folder.mkdir()
        write_front(encoder.route(modality)[0], folder)
        tensors = tensors_of(preprocess(encoder, modality, examples[modality][:_MIN_EXAMPLES]))
        calibration = _calibration(encoder, modality, examples[modality][1::2]) if target.precision == "int8" else []
        graph = traced(encoder, modality, tensors, key=target.model)
        _SAVERS[target.engine, target.precision](graph, folder / GRAPHS[target.engine], calibration)
        front = read_front(folder, modality)
        tower = ExportedTower(folder, front, modality, target.engine, list(tensors), encoder.dim)
        tower.save_config(str(folder))
        routes[modality] = [tower]
    _write_modules(routes, out)


def _parities(
    encoder: DualEncoder, captioner: GridCaptionModel | None, folder: Path, examples: _Examples, step: int
) -> Iterator[Parity]:
    """The parity of each graph with the original, on every `step`-th example."""
    exported = load(folder, "cpu")
    images, texts = examples["image"][::step], examples["text"][::step]
    yield measure_parity(encoder, exported, "image", images)
    yield measure_parity(encoder, exported, "text", texts)
    if captioner is not None:
        yield measure_captioner(captioner, load_graph_model(folder, "cpu"), images, texts)


def _has_captioner(name: str | Path) -> bool:
    """Whether the model has a captioner; a model named after open_clip has no directory and no captioner."""
    return not is_named(name) and has_captioner(model_directory(name))


def _write_modules(routes: dict[str, list[Module]], out: Path) -> None:
    """Write the files with which sentence-transformers finds the routes, whose folders exist already."""
    with quiet():
        SentenceTransformer(modules=[Router(routes, default_route="text")], device="cpu").save_pretrained(
            str(out), create_model_card=False
        )


def _images(encoder: DualEncoder, data: Pairs) -> list[Image.Image]:
    """Up to 128 decoded images, spread evenly over the data set."""
    step = max(1, len(data) // _MAX_IMAGES)
    rows = range(0, len(data), step)[:_MAX_IMAGES]
    images, _ = decode_all((data[i].image for i in rows), encoder.image_size)
    if len(images) < _MIN_EXAMPLES:
        raise DataError(f"checking an export takes at least {_MIN_EXAMPLES} images; {len(images)} can be decoded")
    return images


def _captions(data: Pairs) -> list[str]:
    """The first 512 captions."""
    rows = data[:_MAX_CAPTIONS]
    captions = [caption for row in rows for caption in row.captions if caption.strip()][:_MAX_CAPTIONS]
    if len(captions) < _MIN_EXAMPLES:
        raise DataError(f"checking an export takes at least {_MIN_EXAMPLES} captions; there are {len(captions)}")
    return captions


def _calibration(encoder: DualEncoder, modality: str, examples: ModelInputs) -> list[Inputs]:
    """The graph's inputs for each example alone."""
    alone = (examples[i : i + 1] for i in range(len(examples)))
    features = (tensors_of(preprocess(encoder, modality, example)) for example in alone)
    return [{name: value.numpy() for name, value in tensors.items()} for tensors in features]


def _save_onnx(graph: Path, out: Path, _calibration: Sequence[Inputs]) -> None:
    shutil.copyfile(graph, out)


def _save_openvino(graph: Path, out: Path, _calibration: Sequence[Inputs]) -> None:
    openvino = require("openvino", "export")
    openvino.save_model(openvino.convert_model(str(graph)), str(out), compress_to_fp16=False)


_SAVERS: dict[tuple[str, str], SaveGraph] = {
    ("onnx", "fp32"): _save_onnx,
    ("onnx", "int8"): quantize_onnx,
    ("openvino", "fp32"): _save_openvino,
    ("openvino", "int8"): quantize_openvino,
}
_REQUIRED = {
    ("onnx", "fp32"): ("onnx", "onnxscript", "onnxruntime"),
    ("onnx", "int8"): ("onnx", "onnxscript", "onnxruntime"),
    ("openvino", "fp32"): ("onnx", "onnxscript", "openvino"),
    ("openvino", "int8"): ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
}
