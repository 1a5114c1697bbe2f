"""Training captioners: ten captions learnt exactly on every path, a resume that is exact, rewards that count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.caption_words import words_of
from diptych.captioner import load_captioner
from diptych.formats import read_pairs
from diptych.images import decode
from diptych.recipes.caption import CaptionRecipe, train_captioner
from tests.broken import picture
from tests.conftest import TINY
from tests.test_captioner_models import make_blip, make_vit_gpt2

CAPTIONS = [
    "a red star",
    "two dogs on the sea",
    "the ball of the dog is red and blue",
    "a boat",
    "three boats on a blue sea",
    "a dog runs to the left of a tree",
    "the tree is red",
    "a ball on the boat",
    "two stars and a tree on a ball",
    "a blue dog",
]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures with a caption each, six times over, and once more to validate on, so that the best epoch is exact."""
    folder = tmp_path_factory.mktemp("lesson")
    (folder / "images").mkdir()
    lines, names = ["image,caption"], {"train": [], "dev": []}
    for number, caption in enumerate(CAPTIONS):
        for split in ("train",) * 6 + ("dev",):
            name = f"{split}{len(names[split])}.png"
            names[split].append(name)
            picture(number).save(folder / "images" / name)
            lines.append(f"{name},{caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    for split, of_split in names.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(of_split))
    return folder


@pytest.fixture(scope="module")
def encoder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights."""
    from diptych import dual

    torch.manual_seed(0)
    kept = ("dim", "pretrained", "text_arguments", "image_size", "crop", "device")
    settings = {name: TINY[name] for name in kept}
    captions = read_pairs(scenes).flat_captions()[0]
    folder = tmp_path_factory.mktemp("encoder")
    dual.build(TINY["image_tower"], TINY["text_tower"], captions=captions, **settings).save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(lesson: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny BLIP and a tiny ViT-GPT2 that know the lesson's words."""
    words = sorted({word for row in read_pairs(lesson) for word in words_of(" ".join(row.captions))})
    made = {}
    for name, make in (("blip", make_blip), ("vit-gpt2", make_vit_gpt2)):
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name], words, std=0.02)
    return made


EXACTLY = {
    **{"captions": 1, "batch_size": 6, "label_smoothing": 0.0, "dropout": 0.0, "feature_dropout": 0.0, "ema": 0.0},
    **{"mirror": False, "min_count": 1, "weight_decay": 0.0, "device": "cpu", "max_tokens": 30},
}
SMALL = {"dim": 32, "layers": 1, "image_layers": 0, "heads": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
PATHS: dict[str, dict[str, Any]] = {
    "a small decoder on a dual encoder": {"model": "encoder", **SMALL, "epochs": 24, "lr": 5e-3},
    "a BLIP": {"model": "blip", "epochs": 24, "lr": 8e-3},
    "a ViT-GPT2": {"model": "vit-gpt2", "epochs": 24, "lr": 8e-3},
    "a ViT and a GPT-2 of a configuration alone": {
        **{"encoder": "vit", "encoder_arguments": {**VIT, "patch_size": 8}, "epochs": 24, "lr": 5e-3},
        **{"decoder": "gpt2", "decoder_arguments": {"n_embd": 32, "n_layer": 1, "n_head": 2}},
    },
}


@pytest.mark.parametrize("path", PATHS)
def test_ten_captions_are_learnt_exactly(
    path: str, lesson: Path, encoder: Path, checkpoints: dict, tmp_path: Path
) -> None:
    """With labels shifted twice, or not at all, or with a wrong start or end, none of them would be."""
    settings = dict(PATHS[path])
    if "model" in settings:
        settings["model"] = str({"encoder": encoder, **checkpoints}[settings["model"]])
    recipe = CaptionRecipe(**EXACTLY, **settings, data=str(lesson), out=str(tmp_path / "run"))
    result = train_captioner(recipe)
    assert result.sizes == {"train": 60, "val": 10}
    (log,) = (tmp_path / "run").glob("*/log.jsonl")
    assert losses_of(log)[-1] < 0.5 < losses_of(log)[0]
    captioner = load_captioner(tmp_path / "run", "cpu")
    shown = read_pairs(lesson).split("val")
    images = [decode(row.image) for row in shown]
    for method in ({"method": "greedy"}, {"beams": 3}):
        told = [captions[0].text for captions in captioner.caption(images, **method)]
        assert told == [row.captions[0] for row in shown]


def losses_of(log: Path) -> list[float]:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]
