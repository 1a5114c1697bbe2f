"""open_clip's models, on tiny checkpoints of three of its architectures made here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diptych.errors import MissingExtra, ModelError
from diptych.models import dual_encoder as dual
from diptych.models import two_towers
from diptych.models.open_clip.towers import is_open_clip
from diptych.models.truncation import TextCutWarning
from tests.models.test_families import assert_saved_alike

open_clip = pytest.importorskip("open_clip", reason="open_clip's models come with the extra 'open-clip'")

TEXTS = ["a red circle", "two small blue squares left of a tree", "Sun"]
VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TIMM = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": None, "image_size": 48}
PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear"}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "mobileclip": {
        "embed_dim": 64,
        "vision_cfg": TIMM,
        "text_cfg": {**TEXT, "no_causal_mask": True},
        "custom_text": True,
    },
    "siglip": {
        "embed_dim": 16,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "vocab_size": 300, "hf_tokenizer_name": "somebody/tokenizer", "pool_type": "last"},
        "custom_text": True,
        "init_logit_bias": -10,
    },
}


def make_images(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (60 + 9 * n, 80, 3), dtype=np.uint8)) for n in range(count)]


def save(folder: Path, model_cfg: dict[str, Any]) -> None:
    """A repository as open_clip's `push_to_hf_hub` lays it out."""
    from diptych.models.towers import learn_tokenizer

    config = json.loads(json.dumps(model_cfg))
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(0)
    save_file(kind(**config).state_dict(), folder / "open_clip_model.safetensors")
    preprocessing = {
        **PREPROCESSING,
        "resize_mode": "squash" if "timm_model_name" in config["vision_cfg"] else "shortest",
    }
    told = {"model_cfg": model_cfg, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    if "hf_tokenizer_name" in config["text_cfg"]:
        learn_tokenizer(TEXTS).save_pretrained(folder)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save(folder, ARCHITECTURES[request.param])
    return folder


def reference(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray, Any]:
    """Unit vectors by open_clip's own words for it."""
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    network.eval()
    with torch.inference_mode():
        images = network.encode_image(torch.stack([preprocess(image) for image in make_images()]), normalize=True)
        return images.numpy(), network.encode_text(tokenizer(texts), normalize=True).numpy(), network


def test_a_checkpoint_gives_the_vectors_that_open_clip_gives(checkpoint: Path) -> None:
    images, texts, network = reference(checkpoint, TEXTS)
    model = dual.load(checkpoint, "cpu")
    np.testing.assert_allclose(model.encode_images(make_images()), images, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), texts, atol=1e-5)
    assert model.dim == images.shape[1]
    assert model.image_size == network.visual.image_size[0]
    assert model.logit_scale == pytest.approx(float(network.logit_scale.detach().exp()))
    assert model.logit_bias == (float(network.logit_bias.detach()) if network.logit_bias is not None else 0.0)


def test_a_checkpoint_that_diptych_saved_gives_the_same_vectors(checkpoint: Path, tmp_path: Path) -> None:
    assert_saved_alike(dual.load(checkpoint, "cpu"), tmp_path)


def test_the_towers_share_no_weight_and_leave_none(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    image, text = (set(map(id, model.tower_parameters(modality).values())) for modality in two_towers.MODALITIES)
    assert not image & text
    assert image | text == set(map(id, model.model.parameters()))


def test_the_identity_changes_with_the_preprocessing(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4, 0.4, 0.4]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert dual.load(folder, "cpu").fingerprint() != dual.load(checkpoint, "cpu").fingerprint()


def test_a_text_beyond_the_limit_is_cut_there_with_a_warning(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    long = "a red circle " * 20
    with pytest.warns(TextCutWarning, match="1 of 2 texts have more than the 16 tokens"):
        vectors = model.encode_texts([long, "sun"])
    np.testing.assert_allclose(vectors, reference(checkpoint, [long, "sun"])[1], atol=1e-5)


@pytest.mark.parametrize("text", ["", "🌞🐕", "ein Hund am Strand"])
def test_empty_text_emoji_and_other_languages_get_a_unit_vector(checkpoint: Path, text: str) -> None:
    vector = dual.load(checkpoint, "cpu").encode_texts([text])[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_timms_own_config_beside_it_does_not_hide_an_open_clip_model(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "timm"))
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224"}))
    assert is_open_clip(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert not is_open_clip(folder)  # transformers reads it


def _pickled(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({}, folder / "open_clip_pytorch_model.bin")


def _without_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()


def _cut_short(folder: Path) -> None:
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] += 8
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pickled, "pickle"),
        (_without_weights, "no safetensors"),
        (_cut_short, "cannot load"),
        (_of_another_shape, "cannot load"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "spoilt"))
    spoil(folder)
    with pytest.raises(ModelError, match=words):
        dual.load(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_clip/ViT-B-33", "did you mean 'ViT-B-32'"),
        ("open_clip/ViT-B-32@laion", "laion2b_s34b_b79k"),
        ("open_clip/ViT-B-16-SigLIP2@nothing", "webli"),
        ("open_clip/ViT-H-14", "name one: 'open_clip/ViT-H-14@"),
        ("open_clip/ViT-B-32", "cannot fetch open_clip's 'ViT-B-32@openai'"),
    ],
)
def test_a_name_that_cannot_be_loaded_is_refused_with_what_can(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        dual.load(name)


def test_without_open_clip_the_extra_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=r"diptych\[open-clip\]"):
        dual.load(checkpoint)


def test_a_checkpoint_is_trained_further_and_loads_again(checkpoint: Path, tiny: Callable[..., Any]) -> None:
    from diptych.training.contrastive.train import train

    with pytest.warns(TextCutWarning):
        result = train(tiny(start=str(checkpoint), epochs=1, text_arguments={}))
    before, after = dual.load(checkpoint, "cpu"), dual.load(result.model, "cpu")
    assert not np.allclose(after.encode_texts(TEXTS), before.encode_texts(TEXTS), atol=1e-4)
    assert not np.allclose(after.encode_images(make_images()), before.encode_images(make_images()), atol=1e-4)
