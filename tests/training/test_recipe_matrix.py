"""Every setting of the contrastive recipe with every family of models, on tiny checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.errors import DiptychError
from diptych.models import dual_encoder as dual
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.lora import add_lora, merge_lora
from tests.conftest import TINY
from tests.model_directories import TEXTS, make_clip

VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
SIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    from diptych.models.towers import learn_tokenizer

    tokenizer = learn_tokenizer(TEXTS)
    tokenizer.model_max_length = 32
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text = {**SIDE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "projection_size": 16}
    config = SiglipConfig(text_config=text, vision_config={**SIDE, "image_size": 32, "patch_size": 8})
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def make_open_clip(folder: Path, name: str) -> Path:
    pytest.importorskip("open_clip", reason="open_clip's models come with the extra 'open-clip'")
    from tests.models.test_open_clip import ARCHITECTURES, save

    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    text = {**ARCHITECTURES["clip"]["text_cfg"], "vocab_size": 49408}
    architectures = {**ARCHITECTURES, "resnet": {"embed_dim": 16, "vision_cfg": resnet, "text_cfg": text}}
    folder.mkdir(parents=True)
    save(folder, architectures[name])
    return folder


FAMILIES: dict[str, Callable[[Path], Path] | dict[str, Any]] = {
    "a timm ResNet and DistilBERT": {},
    "a timm ViT and DistilBERT": {"image_tower": "timm/vit_tiny_patch16_224", "image_arguments": VIT},
    "a transformers ViT and BERT": {
        **{"image_tower": "vit", "image_arguments": {**SIDE, "image_size": 32, "patch_size": 8}},
        **{"text_tower": "bert", "text_arguments": SIDE},
    },
    "a CLIP": make_clip,
    "a SigLIP": make_siglip,
    "an open_clip CLIP": lambda folder: make_open_clip(folder, "clip"),
    "an open_clip ResNet": lambda folder: make_open_clip(folder, "resnet"),
    "an open_clip MobileCLIP": lambda folder: make_open_clip(folder, "mobileclip"),
    "an open_clip SigLIP": lambda folder: make_open_clip(folder, "siglip"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "all weights": {"augment": "strong", "chunk_size": 3, "ema": 0.9},
    "lora": {"lora_rank": 2, "chunk_size": 3, "objective": "sigmoid", "logit_scale": 5.0},
    "lora on one tower, resumed": {"lora_rank": 2, "freeze": ["image"], "ema": 0.9},
    "frozen image": {"freeze": ["image"], "augment": "light", "views": 2, "precision": "bf16"},
    "frozen text, resumed": {"freeze": ["text"], "batch_norm": True, "label_smoothing": 0.1, "weight_decay": 0.0},
    "both frozen": {"freeze": ["image", "text"]},
}
NEW = {"heads first": {"head_epochs": 1, "projection": "mlp"}, "residual heads": {"projection": "residual"}}
REFUSED = {  # family and settings -> what the message says
    ("a timm ResNet and DistilBERT", "lora"): "image tower has no attention layers for LoRA",
    ("an open_clip MobileCLIP", "lora"): "image tower has no attention layers for LoRA",
    **{
        (family, "both frozen"): "nothing is left to train"
        for family in FAMILIES
        if not isinstance(FAMILIES[family], dict)
    },
}
CASES = [
    (family, settings)
    for family, maker in FAMILIES.items()
    for settings in (*SETTINGS, *(NEW if isinstance(maker, dict) else ()))
]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 20 images."""
    from diptych.data.samples.library import draw_scenes

    return draw_scenes(tmp_path_factory.mktemp("few"), count=20, size=32)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The settings that start from a family; its checkpoint is made once."""
    made: dict[str, dict[str, Any]] = {}

    def start(family: str) -> dict[str, Any]:
        if family not in made:
            maker = FAMILIES[family]
            torch.manual_seed(0)
            made[family] = (
                maker if isinstance(maker, dict) else {"start": str(maker(tmp_path_factory.mktemp("f") / "model"))}
            )
        return made[family]

    return start


@pytest.mark.filterwarnings("ignore::diptych.models.truncation.TextCutWarning")
@pytest.mark.parametrize(("family", "settings"), CASES)
def test_every_setting_trains_every_family_or_is_refused_with_the_reason(
    family: str, settings: str, starts: Callable[[str], dict[str, Any]], few: Path, tmp_path: Path
) -> None:
    start = starts(family)
    fixed = {
        "data": str(few),
        "out": str(tmp_path),
        "epochs": 3,
        "batch_size": 6,
        "max_steps": 2,
        "lr_image": 0.01,
        "lr_text": 0.01,
    }
    recipe = ContrastiveRecipe(**{**TINY, **start, **fixed, **SETTINGS.get(settings, {}), **NEW.get(settings, {})})
    if (family, settings) in REFUSED:
        with pytest.raises(DiptychError, match=REFUSED[family, settings]):
            train(recipe)
        return
    result = train(recipe)
    if settings.endswith("resumed"):
        recipe.max_steps = 3
        result = train(recipe, resume=True)
    assert result.outcome.steps == recipe.max_steps
    model = dual.load(result.model, "cpu")
    assert not any("lora" in name or "parametrizations" in name for name in model.model.state_dict())
    image = model.encode_images([Image.new("RGB", (40, 30), "red")])
    assert np.isfinite(image).all()
    assert np.isfinite(model.encode_texts(["a red circle"])).all()
    scores = json.loads((result.model / "diptych.json").read_text())["validation"]
    assert 0 <= scores["rsum"] <= 600


@pytest.mark.parametrize("family", [family for family in FAMILIES if not isinstance(FAMILIES[family], dict)])
def test_every_adapter_of_lora_gets_a_gradient_and_is_merged_exactly(
    family: str, starts: Callable[[str], dict[str, Any]]
) -> None:
    model = dual.load(starts(family)["start"], "cpu")
    images, texts = [Image.effect_noise((40, 40), 90).convert("RGB") for _ in range(4)], TEXTS
    before = model.encode_images(images), model.encode_texts(texts)
    modalities = ["text"] if "MobileCLIP" in family else ["image", "text"]
    add_lora(model, 2, modalities)
    np.testing.assert_allclose(model.encode_images(images), before[0], atol=1e-6)
    adapters = {name: weight for name, weight in model.model.named_parameters() if "lora_b" in name}
    torch.manual_seed(0)
    for weight in adapters.values():
        torch.nn.init.normal_(weight, std=0.1)
    embeddings = model.embed(model.preprocess_images(images)), model.embed(model.preprocess_texts(texts))
    (embeddings[0] @ embeddings[1].T).square().sum().backward()
    assert len(adapters) >= len(modalities)
    # Key biases and, over one position, queries have no influence; every other adapter has a gradient.
    assert all(weight.grad is not None for weight in adapters.values())
    merged = merge_lora(model)
    for changed in (model, merged):
        assert not np.allclose(changed.encode_texts(texts), before[1], atol=1e-3)
    np.testing.assert_allclose(merged.encode_images(images), model.encode_images(images), atol=1e-6)
    np.testing.assert_allclose(merged.encode_texts(texts), model.encode_texts(texts), atol=1e-6)
