"""Export: a model's towers and captioner as ONNX or OpenVINO graphs, checked against it, and loaded as it is.

The exported directory has the form of every other model's; each route is one `ExportedTower` in the place of tower,
pooling and head.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from diptych.captioning.graph_captioner import load_graph_model
from diptych.captioning.grid_captioner import GridCaptionModel, has_captioner, load_grid_model
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError, ModelError, did_you_mean, require
from diptych.export.captioner import measure_captioner, write_captioner
from diptych.export.description import write_card
from diptych.export.int8 import onnx_int8, openvino_int8
from diptych.export.parity import TOLERANCES, Parity, Tolerance, measure, prepared, refuse_if_off
from diptych.models.checkpoints import model_directory
from diptych.models.dual_encoder import MODALITIES, DualEncoder, load
from diptych.models.embedding_cache import decode_all
from diptych.models.onnx.engines import GRAPHS, Inputs, known_engine
from diptych.models.onnx.exported_tower import ExportedTower, read_front, write_front
from diptych.models.onnx.graphs import tensors_of, traced
from diptych.models.open_clip.names import is_named
from diptych.runtime.atomic import new_folder
from diptych.runtime.quiet import quiet

_PICTURES, _TEXTS = 128, 512


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, in which form, its size beside the towers' in bytes, and each graph's parity and speed."""

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
    """Write a model's towers, and its captioner, as graphs into the new folder `out`; check them on pictures of `data`.

    `engine` is `onnx` or `openvino`, `precision` is `fp32` or `int8`. Up to 128 pictures and 512 captions are used; for
    int8 every second one calibrates the graphs and the others check them. Nothing is left at `out` where the check
    fails. Heads for matching and prompting are not carried over: they look into the towers.

    Raises:
        ModelError: there is no such model, torch cannot trace it, or its vectors are off by more than `tolerance`.
        ConfigError: `out` exists, or there is no such engine or precision.
        DataError: there are too few pictures or captions in `data`.
        MissingExtra: a package of the extra `export` is not installed.
    """
    out = Path(out)
    known_engine(engine)
    if precision not in TOLERANCES:
        raise ConfigError(f"there is no precision '{precision}'; {did_you_mean(precision, TOLERANCES)}")
    if out.exists():
        raise ConfigError(f"'{out}' exists already; choose a new folder")
    for module in _NEEDS[engine, precision]:
        require(module, "export")
    encoder = load(name, "cpu")
    told = {"of": encoder.identity(), "engine": engine, "precision": precision}
    if any(isinstance(module, ExportedTower) for module in encoder.route("image")):
        raise ModelError(f"'{name}' is an exported model already; export the model that it was made from")
    examples: dict[str, Sequence[Any]] = {"image": _pictures(encoder, data), "text": _texts(data)}
    writer = load_grid_model(name, "cpu") if _has_captioner(name) else None
    with new_folder(out) as folder:
        _write(encoder, folder, examples, told)
        save = _WRITERS[engine, precision]
        source = model_directory(name) if writer else folder
        captioner = write_captioner(writer, source, folder, examples["image"], told, save) if writer else None
        write_card(name, encoder, folder, told, captioner)
        graphs = []
        for graph in _measured(encoder, writer, folder, examples, every=2 if precision == "int8" else 1):
            refuse_if_off(graph, tolerance or TOLERANCES[precision])
            graphs.append(graph)
        write_card(
            name, encoder, folder, {**told, "parity": {graph.name: asdict(graph) for graph in graphs}}, captioner
        )
        after = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    before = sum(weight.numel() * weight.element_size() for weight in encoder.model.parameters())
    return Export(out, engine, precision, before, after, tuple(graphs))


def _write(encoder: DualEncoder, out: Path, examples: dict[str, Sequence[Any]], told: dict[str, str]) -> None:
    """The model's directory: both routes as graphs, in sentence-transformers' layout."""
    routes: dict[str, list[Any]] = {}
    engine, precision = told["engine"], told["precision"]
    for modality in MODALITIES:
        folder = out / f"{modality}_0_{ExportedTower.__name__}"
        folder.mkdir()
        write_front(encoder.route(modality)[0], folder)
        tensors = tensors_of(prepared(encoder, modality, examples[modality][:4]))
        calibration = _calibration(encoder, modality, examples[modality][1::2]) if precision == "int8" else []
        graph = traced(encoder, modality, tensors, key=told["of"])
        _WRITERS[engine, precision](graph, folder / GRAPHS[engine], calibration)
        front = read_front(folder, modality)
        routes[modality] = [ExportedTower(folder, front, modality, engine, list(tensors), encoder.dim)]
        routes[modality][0].save_config(str(folder))
    _write_modules(routes, out)


def _measured(
    encoder: DualEncoder, writer: GridCaptionModel | None, folder: Path, examples: dict[str, Sequence[Any]], every: int
) -> Iterator[Parity]:
    """Each graph beside what it was made from, on every second or every example."""
    exported = load(folder, "cpu")
    checked = {modality: examples[modality][::every] for modality in MODALITIES}
    for modality in MODALITIES:
        yield measure(encoder, exported, modality, checked[modality])
    if writer is not None:
        yield measure_captioner(writer, load_graph_model(folder, "cpu"), checked["image"], checked["text"])


def _has_captioner(name: str | Path) -> bool:
    """Whether there is a captioner beside the encoder; one of open_clip's by name has no directory."""
    return not is_named(name) and has_captioner(model_directory(name))


def _write_modules(routes: dict[str, list[Any]], out: Path) -> None:
    """The files by which sentence-transformers finds the routes, whose own folders lie there already."""
    with quiet():
        SentenceTransformer(modules=[Router(routes, default_route="text")], device="cpu").save_pretrained(
            str(out), create_model_card=False
        )


def _pictures(encoder: DualEncoder, data: Pairs) -> list[Image.Image]:
    step = max(1, len(data) // _PICTURES)
    pictures, _ = decode_all((data[at].image for at in range(0, len(data), step)[:_PICTURES]), encoder.image_size)
    if len(pictures) < 4:
        raise DataError(f"{len(pictures)} pictures can be decoded; checking an exported model takes at least 4")
    return pictures


def _texts(data: Pairs) -> list[str]:
    texts = [caption for row in data[:_TEXTS] for caption in row.captions if caption.strip()][:_TEXTS]
    if len(texts) < 4:
        raise DataError(f"there are {len(texts)} captions; checking an exported model takes at least 4")
    return texts


def _calibration(encoder: DualEncoder, modality: str, examples: Sequence[Any]) -> list[Inputs]:
    """The graph's inputs for each example alone."""
    each = (tensors_of(prepared(encoder, modality, [example])) for example in examples)
    return [{name: value.numpy() for name, value in tensors.items()} for tensors in each]


def _onnx_fp32(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    shutil.copyfile(graph, out)


def _openvino_fp32(graph: Path, out: Path, calibration: Sequence[Inputs]) -> None:
    openvino = require("openvino", "export")
    openvino.save_model(openvino.convert_model(str(graph)), str(out), compress_to_fp16=False)


_WRITERS: dict[tuple[str, str], Callable[[Path, Path, Sequence[Inputs]], None]] = {
    ("onnx", "fp32"): _onnx_fp32,
    ("onnx", "int8"): onnx_int8,
    ("openvino", "fp32"): _openvino_fp32,
    ("openvino", "int8"): openvino_int8,
}
_NEEDS = {
    ("onnx", "fp32"): ("onnx", "onnxscript", "onnxruntime"),
    ("onnx", "int8"): ("onnx", "onnxscript", "onnxruntime"),
    ("openvino", "fp32"): ("onnx", "onnxscript", "openvino"),
    ("openvino", "int8"): ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
}
