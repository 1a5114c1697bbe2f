"""The examples run to their end, here with a tiny model and in a folder of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from diptych.data.samples.library import QUERIES
from diptych.models import builder

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_indexes_the_photographs_and_answers_texts_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb", reason="the index comes with the extra 'search'")
    pytest.importorskip("skimage", reason="the photographs come with the extra 'samples'")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tiny = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    settings = {"pretrained": False, "text_arguments": tiny, "captions": QUERIES.values(), "dim": 16, "image_size": 32}
    builder.build("timm/test_resnet", "distilbert", device="cpu", **settings).save("model")
    for _ in range(2):  # a second run finds what the first left
        example("demo").main("model")
        told = capsys.readouterr().out
        assert "indexed 15 photographs" in told
        assert all(query in told for query in QUERIES.values())
        assert "the middle of the temple, mirrored, found" in told
        assert "YOUR_FOLDER" in told
    with Image.open("runs/demo/found.png") as grid:
        assert grid.width > 1000
