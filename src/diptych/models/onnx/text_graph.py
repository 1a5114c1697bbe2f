"""Text graphs: a text tower as a cached ONNX graph that embeds queries without importing torch.

Embedding a query takes milliseconds, but importing torch and loading the model takes seconds.
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
from diptych.models.unknown_words import UnknownWordsWarning, unknown_in, warn_of_unknown_words
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder
    from diptych.models.heads import Features

_FORMAT = 2
_GRAPH, _TOKENIZER, _SETTINGS = "graph.onnx", "tokenizer.json", "settings.json"
_INPUTS = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}  # attributes of an Encoding
_BLOCK = 64  # texts in one run of the graph
_MIN_COSINE = 0.9999
_PROBES = ("a dog", "Two children, in RED coats, play near the sea.", "naïve café 犬 🐕", "", "word " * 600)


class TextEncoder(Protocol):
    """Embeds texts: a `DualEncoder` or its `TextGraph`."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings: (texts, dim) float32 unit vectors."""

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order."""


class TextGraph:
    """The text tower of a dual encoder in ONNX Runtime; `keep_text_graph` writes one.

    Args:
        folder: Folder that `keep_text_graph` wrote.
    """

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession
        from tokenizers import Tokenizer

        settings = json.loads((folder / _SETTINGS).read_text("utf-8"))
        self.limit: int | None = settings["limit"]
        self.inputs: list[str] = settings["inputs"]
        self.unknown: int | None = settings["unknown"]
        self.tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))  # truncates and pads as the model's own
        self.session = InferenceSession(folder / _GRAPH, providers=["CPUExecutionProvider"])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: (texts, dim) float32 unit vectors; warnings are those of `DualEncoder.encode_texts`.

        Raises:
            ConfigError: An item is not a string.
        """
        texts = within_reach(checked_texts(texts), self.limit)
        if not texts:
            return np.zeros((0, self.session.get_outputs()[0].shape[1]), np.float32)
        if self.limit is not None:
            counts = [len(encoding.ids) for encoding in self._without_truncation.encode_batch(texts)]
            warn_of_cut(texts, counts, self.limit, stacklevel=2)
        warn_of_unknown_words(unknown_in(self._without_truncation, self.unknown, texts), stacklevel=2)
        blocks = [texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK)]
        return np.concatenate([self._encode(block) for block in blocks])

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order.

        Raises:
            ConfigError: An item is not a string.
        """
        return unknown_in(self._without_truncation, self.unknown, within_reach(checked_texts(texts), self.limit))

    @cached_property
    def _without_truncation(self) -> Any:
        """The tokenizer without truncation and padding."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        encodings = self.tokenizer.encode_batch(list(texts))
        columns = {name: [getattr(encoding, _INPUTS[name]) for encoding in encodings] for name in self.inputs}
        return self.session.run(None, {name: np.array(rows, np.int64) for name, rows in columns.items()})[0]


def kept_text_graph(fingerprint: str) -> TextGraph | None:
    """The cached graph of the model with this fingerprint; None if there is none or ONNX Runtime is not installed.

    A damaged graph is removed, so that it is written again.
    """
    folder = _folder(fingerprint)
    if not folder.exists():
        return None
    try:
        return TextGraph(folder)
    except ImportError:
        return None
    except Exception:  # ONNX Runtime and tokenizers raise plain exceptions on damaged files
        shutil.rmtree(folder, ignore_errors=True)
        return None


def keep_text_graph(encoder: DualEncoder, fingerprint: str) -> bool:
    """Cache a model's text tower as a graph, after checking that it gives the model's embeddings.

    Returns:
        Whether there is a graph now. There is none if torch cannot trace the tower, its tokenizer is not a `tokenizers`
        tokenizer, or ONNX is not installed.
    """
    folder = _folder(fingerprint)
    if folder.exists():
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # one probe is too long on purpose
        warnings.simplefilter("ignore", UnknownWordsWarning)  # a small vocabulary may lack all words of another
        try:
            with new_folder(folder) as new:
                _write(encoder, new)
        except (DiptychError, ImportError):
            return False
    return folder.exists()


def _folder(fingerprint: str) -> Path:
    return cache_dir() / "text_graphs" / f"{fingerprint}-{_FORMAT}"


def _write(encoder: DualEncoder, folder: Path) -> None:
    """Write the files of a `TextGraph`.

    Raises:
        ModelError: torch cannot trace the tower, or the graph's embeddings differ from the model's.
    """
    trunk: Any = encoder.route("text")[0]
    features = encoder.preprocess_texts(_PROBES)  # also sets the tokenizer's truncation and padding
    tokenizer = getattr(getattr(trunk, "tokenizer", None), "backend_tokenizer", None)
    if tokenizer is None:
        raise ModelError("the model's tokenizer is not a `tokenizers` tokenizer")
    tokenizer.save(str(folder / _TOKENIZER))
    inputs = _write_graph(encoder, features, folder / _GRAPH)
    if not set(inputs) <= set(_INPUTS):
        raise ModelError(f"the text tower reads {', '.join(inputs)}, which a tokenizer does not produce")
    unknown = getattr(trunk.tokenizer, "unk_token_id", None)
    settings = {"inputs": inputs, "limit": token_limit(trunk), "unknown": unknown}
    (folder / _SETTINGS).write_text(json.dumps(settings), "utf-8")
    cosines = (TextGraph(folder).encode_texts(_PROBES) * encoder.encode_texts(_PROBES)).sum(axis=1)
    if not (cosines >= _MIN_COSINE).all():
        raise ModelError("the graph's embeddings differ from the model's")


def _write_graph(encoder: DualEncoder, features: Features, path: Path) -> list[str]:
    """Write the text tower's graph and return the names of its inputs; an exported tower's graph is copied."""
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
