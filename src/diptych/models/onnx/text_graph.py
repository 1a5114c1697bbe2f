"""Texts as vectors without torch: a text tower as an ONNX graph, kept for programs that ask one query and end.

A query takes a model milliseconds, but importing torch and loading the model takes seconds.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from diptych.errors import DiptychError, ModelError
from diptych.models.modalities import checked_texts
from diptych.models.truncation import TextCutWarning, token_limit, warn_of_cut, within_reach
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

_FORMAT = 1
_GRAPH, _TOKENIZER, _SETTINGS = "graph.onnx", "tokenizer.json", "settings.json"
_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}  # of an Encoding
_BLOCK = 64  # texts that go through the graph at once
_LEAST_COSINE = 0.9999
_PROBES = ("a dog", "Two children, in RED coats, play near the sea.", "naïve café 犬 🐕", "", "word " * 600)


class TextEncoder(Protocol):
    """What embeds texts: a `DualEncoder`, or its kept graph."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors: (texts, dim) float32."""


class TextGraph:
    """The text tower of a dual encoder, run by ONNX Runtime; made by `keep_text_graph`."""

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession
        from tokenizers import Tokenizer

        settings = json.loads((folder / _SETTINGS).read_text("utf-8"))
        self.limit: int | None = settings["limit"]
        self.inputs: list[str] = settings["inputs"]
        self.tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))  # cuts and pads as the model's own does
        self.session = InferenceSession(folder / _GRAPH, providers=["CPUExecutionProvider"])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts: (texts, dim) float32. One `TextCutWarning` a call says what was cut."""
        texts = within_reach(checked_texts(texts), self.limit)
        if not texts:
            return np.zeros((0, self.session.get_outputs()[0].shape[1]), np.float32)
        if self.limit is not None:
            counts = [len(each.ids) for each in self._uncut.encode_batch(texts)]
            warn_of_cut(texts, counts, self.limit, stacklevel=2)
        blocks = [texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK)]
        return np.concatenate([self._encode(block) for block in blocks])

    @cached_property
    def _uncut(self) -> Any:
        """The tokenizer without its limit."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        encodings = self.tokenizer.encode_batch(list(texts))
        columns = {name: [getattr(each, _INPUTS[name]) for each in encodings] for name in self.inputs}
        return self.session.run(None, {name: np.array(rows, np.int64) for name, rows in columns.items()})[0]


def kept_text_graph(identity: str) -> TextGraph | None:
    """The graph of the model with this `DualEncoder.identity()`; None where there is none, or no ONNX Runtime.

    One that is damaged is removed, so that it is written anew.
    """
    folder = _folder(identity)
    if not folder.exists():
        return None
    try:
        return TextGraph(folder)
    except ImportError:
        return None
    except Exception:  # ONNX Runtime and tokenizers raise nothing narrower on damaged files
        shutil.rmtree(folder, ignore_errors=True)
        return None


def keep_text_graph(encoder: DualEncoder, identity: str) -> bool:
    """Write the text tower of a model to the cache folder, if its graph and tokenizer give the model's own vectors.

    False where they cannot: torch cannot trace the tower, its tokenizer is none of the `tokenizers` library, or ONNX
    is not installed.
    """
    folder = _folder(identity)
    if folder.exists():
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # of the probes, one of which is too long on purpose
        try:
            with new_folder(folder) as new:
                _write(encoder, new)
        except (DiptychError, ImportError):
            return False
    return folder.exists()


def _folder(identity: str) -> Path:
    return cache_dir() / "text_graphs" / f"{identity}-{_FORMAT}"


def _write(encoder: DualEncoder, folder: Path) -> None:
    """Write what `TextGraph` reads.

    Raises:
        ModelError: torch cannot trace the tower, or what was written does not do what the model does.
    """
    trunk: Any = encoder.route("text")[0]
    features = encoder.preprocess_texts(_PROBES)  # also sets how the tokenizer cuts and pads
    tokenizer = getattr(getattr(trunk, "tokenizer", None), "backend_tokenizer", None)
    if tokenizer is None:
        raise ModelError("the model's tokenizer is none of the tokenizers library")
    tokenizer.save(str(folder / _TOKENIZER))
    inputs = _write_graph(encoder, features, folder / _GRAPH)
    if not set(inputs) <= set(_INPUTS):
        raise ModelError(f"the text tower reads {', '.join(inputs)}, of which a tokenizer knows nothing")
    (folder / _SETTINGS).write_text(json.dumps({"inputs": inputs, "limit": token_limit(trunk)}), "utf-8")
    cosines = (TextGraph(folder).encode_texts(_PROBES) * encoder.encode_texts(_PROBES)).sum(axis=1)
    if not (cosines >= _LEAST_COSINE).all():
        raise ModelError("the graph does not give the model's own vectors")


def _write_graph(encoder: DualEncoder, features: dict[str, Any], path: Path) -> list[str]:
    """Write the text tower's graph, and say what it reads; an exported tower is one already."""
    from diptych.models.onnx.engines import GRAPHS
    from diptych.models.onnx.exported_tower import ExportedTower
    from diptych.models.onnx.graphs import Route, tensors_of, write_graph

    trunk = encoder.route("text")[0]
    if isinstance(trunk, ExportedTower):
        if trunk.engine != "onnx":
            raise ModelError("the text tower was exported for another engine")
        shutil.copyfile(trunk.folder / GRAPHS["onnx"], path)
        return trunk.inputs
    tensors = tensors_of(encoder.to_device(features))
    write_graph(Route(encoder.route("text"), list(tensors), "text"), tensors, path)
    return list(tensors)
