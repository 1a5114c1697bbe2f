"""The captioner in the box."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from diptych.captioning.captioner import Captioner, load_captioner
from diptych.captioning.grid_captioner import WEIGHTS, WORDS
from diptych.data.samples import photographs
from diptych.images.decode import decode
from diptych.models.checkpoints import BUNDLED

MINI = BUNDLED / "mini"


@pytest.fixture(scope="module")
def mini() -> Captioner:
    return load_captioner("mini", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("skimage")
    rows = photographs.photographs(tmp_path_factory.mktemp("photographs"))
    return {Path(row.image_id).stem: Path(str(row.image)) for row in rows}


def test_it_adds_at_most_ten_megabytes_in_half_precision() -> None:
    assert sum((MINI / name).stat().st_size for name in (WEIGHTS, WORDS)) <= 10_000_000
    with safe_open(MINI / WEIGHTS, framework="pt") as weights:
        kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118 - not a dict
    assert kinds == {torch.float16}


def test_it_generates_sentences_and_recognises_a_man_and_a_bike(mini: Captioner, photos: dict[str, Path]) -> None:
    captions = mini.caption([decode(path, min_side=224) for path in photos.values()])
    texts = {name: of_one[0].text for name, of_one in zip(photos, captions, strict=True)}
    assert all(4 <= len(text.split()) <= 20 for text in texts.values()), texts
    assert len(set(texts.values())) > 10
    assert "a man" in texts["cameraman"]
    assert "bike" in texts["motorcycle"]
