"""A kept text tower gives the model's own vectors, without torch, or is not kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych
from diptych.models.onnx import text_graph
from diptych.models.onnx.text_graph import keep_text_graph, kept_text_graph
from diptych.models.truncation import TextCutWarning
from diptych.search.index import Index
from tests.models.test_families import FAMILIES
from tests.models.test_open_clip import ARCHITECTURES, save
from tests.search.test_index import library, model, model_folder  # noqa: F401 - fixtures

pytest.importorskip("lancedb")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TEXTS = ["a red star", "", "A Blue CIRCLE, left of a star", "naïve 犬"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["clip", "siglip2"])
def test_the_graph_gives_the_vectors_of_the_model(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    whole = diptych.load(tmp_path, "cpu")
    assert keep_text_graph(whole, "whole")
    graph = kept_text_graph("whole")
    assert graph is not None
    np.testing.assert_allclose(graph.encode_texts(TEXTS * 20), whole.encode_texts(TEXTS * 20), atol=1e-5)


def test_an_exported_model_is_kept_as_it_is(model_folder: Path, scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    exported = tmp_path / "exported"
    diptych.export_model(str(model_folder), exported, data=diptych.read_pairs(scenes))
    other = diptych.load(exported, "cpu")
    assert keep_text_graph(other, "exported")
    graph = kept_text_graph("exported")
    assert graph is not None
    np.testing.assert_allclose(graph.encode_texts(TEXTS), other.encode_texts(TEXTS), atol=1e-6)


def test_truncation_gives_the_same_warning_as_the_model(model: diptych.DualEncoder) -> None:  # noqa: F811
    assert keep_text_graph(model, "tiny")
    graph = kept_text_graph("tiny")
    assert graph is not None
    long = ["a red star " * 200, "a red star"]
    with pytest.warns(TextCutWarning) as of_model:
        expected = model.encode_texts(long)
    with pytest.warns(TextCutWarning) as of_graph:
        embeddings = graph.encode_texts(long)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert str(of_graph[0].message) == str(of_model[0].message)
    assert of_graph[0].filename == __file__


@pytest.mark.parametrize("make", [FAMILIES["siglip"], lambda folder: save(folder, ARCHITECTURES["clip"])])
def test_a_model_whose_tokenizer_is_of_another_kind_is_not_kept(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    assert not keep_text_graph(diptych.load(tmp_path, "cpu"), "other")
    assert kept_text_graph("other") is None


def test_a_graph_that_differs_from_its_model_is_not_kept(
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode: Callable[..., Any] = text_graph.TextGraph.encode_texts
    monkeypatch.setattr(text_graph.TextGraph, "encode_texts", lambda self, texts: -encode(self, texts))
    assert not keep_text_graph(model, "wrong")
    assert kept_text_graph("wrong") is None


def test_no_texts_give_no_embeddings(model: diptych.DualEncoder) -> None:  # noqa: F811
    assert keep_text_graph(model, "tiny")
    graph = kept_text_graph("tiny")
    assert graph is not None
    assert graph.encode_texts([]).shape == (0, model.dim)


@pytest.mark.parametrize("damaged", ["graph.onnx", "tokenizer.json", "settings.json"])
def test_a_damaged_graph_is_written_again(damaged: str, model: diptych.DualEncoder, tmp_path: Path) -> None:  # noqa: F811
    assert keep_text_graph(model, "tiny")
    next(tmp_path.glob(f"cache/text_graphs/*/{damaged}")).write_bytes(b"{}")
    assert kept_text_graph("tiny") is None
    assert keep_text_graph(model, "tiny")
    assert kept_text_graph("tiny") is not None


ASK = """
import json, sys
from diptych.search.index import Index
results = Index(sys.argv[1]).search("a red star", keep=None if sys.argv[2] == "nearest" else 0.95)
print(json.dumps([[hit.path, hit.score] for hit in results], default=str))
print(json.dumps([name for name in ("torch", "sentence_transformers", "transformers") if name in sys.modules]))
"""


@pytest.mark.parametrize("keep", ["nearest", "cutoff"])
def test_a_text_query_of_a_new_process_loads_no_torch(library: Path, model_folder: Path, keep: str) -> None:  # noqa: F811
    index = Index(library, model_folder)
    index.add(library)
    assert index.cache_text_encoder()
    command = [sys.executable, "-c", ASK, str(library), keep]
    hits, loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert json.loads(loaded) == []
    expected = index.search("a red star", keep=None if keep == "nearest" else 0.95)
    assert [path for path, _ in json.loads(hits)] == [hit.path for hit in expected]
    assert [score for _, score in json.loads(hits)] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_without_a_graph_the_model_answers(library: Path, model_folder: Path) -> None:  # noqa: F811
    Index(library, model_folder).add(library)
    index = Index(library)
    assert index.text_encoder is index.model
