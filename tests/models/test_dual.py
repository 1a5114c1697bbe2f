from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from diptych.errors import ConfigError, ModelError
from diptych.models import builder, two_towers
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import refuse_unsafe
from diptych.models.heads import ResidualHead
from diptych.models.towers import image_tower, learn_tokenizer, text_tower

TEXTS = ["a red circle", "two small blue squares left of a tree", "sun"]
TINY_TEXT = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


def images(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + n, 50, 3), dtype=np.uint8)) for n in range(count)]


def build(**settings) -> dual.DualEncoder:
    torch.manual_seed(0)
    fixed = {"pretrained": False, "captions": TEXTS, "text_arguments": TINY_TEXT, "dim": 16, "image_size": 32}
    return builder.build("timm/test_resnet", "distilbert", device="cpu", **{**fixed, **settings})


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint of the real architecture, with random weights and a learnt vocabulary."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = learn_tokenizer(TEXTS)
    tokenizer.model_max_length = 32
    side = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text = {**side, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**side, "image_size": 32, "patch_size": 8}, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("projection", ["linear", "mlp", "residual"])
def test_a_saved_model_loads_with_the_same_vectors(projection: str, tmp_path: Path) -> None:
    model = build(projection=projection)
    model.logit_scale = 12.5
    model.save(tmp_path)
    again = dual.load(tmp_path, "cpu")
    np.testing.assert_array_equal(again.encode_images(images()), model.encode_images(images()))
    np.testing.assert_array_equal(again.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert again.logit_scale == 12.5
    assert again.fingerprint() == model.fingerprint()


def test_a_model_that_names_the_residual_head_at_its_old_place_still_loads(tmp_path: Path) -> None:
    build(projection="residual").save(tmp_path)
    routes = tmp_path / "router_config.json"
    routes.write_text(routes.read_text().replace("diptych.models.heads.", "diptych.towers."))
    assert "diptych.towers.ResidualHead" in routes.read_text()
    assert isinstance(dual.load(tmp_path, "cpu").head("text")[0], ResidualHead)


def test_vectors_have_unit_length_and_do_not_depend_on_their_batch() -> None:
    model = build()
    vectors = model.encode_images(images())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.encode_images(images(), batch_size=1), vectors, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS, batch_size=1), model.encode_texts(TEXTS), atol=1e-5)


def test_a_model_with_linear_heads_loads_with_plain_sentence_transformers(tmp_path: Path) -> None:
    model = build(projection="linear")
    model.save(tmp_path / "model")
    for number, image in enumerate(images()):
        image.save(tmp_path / f"{number}.png")
    np.save(tmp_path / "images.npy", model.encode_images(images()))
    np.save(tmp_path / "texts.npy", model.encode_texts(TEXTS))
    program = f"""
        import sys
        sys.modules["diptych"] = None  # as where it is not installed
        import numpy as np
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        model = SentenceTransformer("model", device="cpu")
        images = model.encode([Image.open(f"{{n}}.png") for n in range(3)])
        np.testing.assert_allclose(images, np.load("images.npy"), atol=1e-5)
        np.testing.assert_allclose(model.encode({TEXTS!r}), np.load("texts.npy"), atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=True)


def test_the_residual_head_computes_the_tutorials_formula() -> None:
    torch.manual_seed(0)
    head = ResidualHead(6, 4, dropout=0.0).eval()
    inputs = torch.randn(2, 6)
    projected = inputs @ head.projection.weight.T + head.projection.bias
    inner = functional.gelu(projected) @ head.body[1].weight.T + head.body[1].bias
    expected = functional.layer_norm(inner + projected, (4,), head.norm.weight, head.norm.bias)
    torch.testing.assert_close(head({"sentence_embedding": inputs})["sentence_embedding"], expected)


def test_a_clip_checkpoint_gives_the_vectors_that_transformers_gives(tiny_clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    reference, processor = CLIPModel.from_pretrained(tiny_clip), CLIPProcessor.from_pretrained(tiny_clip)
    with torch.inference_mode():
        inputs = processor(text=TEXTS, images=images(), return_tensors="pt", padding=True)
        output = reference(**inputs)
    model = dual.load(tiny_clip, "cpu")
    np.testing.assert_allclose(model.encode_images(images()), output.image_embeds, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), output.text_embeds, atol=1e-5)
    assert model.logit_scale == pytest.approx(float(reference.logit_scale.exp()))


def test_the_two_towers_of_a_clip_share_no_weight_and_leave_only_its_scale(tiny_clip: Path) -> None:
    model = dual.load(tiny_clip, "cpu")
    image, text = (set(map(id, model.tower_parameters(modality).values())) for modality in two_towers.MODALITIES)
    rest = [name for name, weight in model.model.named_parameters() if id(weight) not in image | text]
    assert not image & text
    assert rest == ["0.model.logit_scale"]


def test_a_transformers_image_tower_is_built_from_configuration_alone() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = builder.build(
        "google/vit-base-patch16-224",
        "distilbert/distilbert-base-uncased",
        pretrained=False,
        image_arguments={**small, "image_size": 32, "patch_size": 8},
        text_arguments=TINY_TEXT,
        captions=TEXTS,
        dim=16,
        device="cpu",
    )
    assert model.encode_images(images()).shape == (3, 16)
    assert model.image_size == 32


def test_a_local_directory_serves_as_a_tower(tmp_path: Path) -> None:
    image_tower("timm/test_resnet", pretrained=False)[0].model.save_pretrained(tmp_path / "image")
    trunk = text_tower("distilbert", pretrained=False, captions=TEXTS, arguments=TINY_TEXT)[0]
    trunk.model.save_pretrained(tmp_path / "text")
    trunk.tokenizer.save_pretrained(tmp_path / "text")
    model = builder.build(str(tmp_path / "image"), str(tmp_path / "text"), dim=16, device="cpu")
    assert model.encode_texts(TEXTS).shape == (3, 16)


def test_long_texts_are_truncated_at_the_token_limit() -> None:
    model = build(max_length=4)
    long = "a red circle " * 50
    assert model.preprocess_texts([long])["input_ids"].shape == (1, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_tower": "timm/resnet5o"}, "resnet5o"),
        ({"text_tower": "distilbart-zero"}, "distilbert"),
        ({"image_tower": "pypi/efficientnet"}, "pypi/efficientnet-lite0"),
    ],
)
def test_an_unknown_tower_is_refused_with_its_name(settings: dict[str, str], words: str) -> None:
    names = {"image_tower": "timm/test_resnet", "text_tower": "distilbert", **settings}
    with pytest.raises(ModelError, match=words):
        builder.build(**names, pretrained=False, captions=TEXTS, device="cpu")


def test_an_unknown_head_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'residual'"):
        build(projection="residuel")


def test_a_folder_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither modules\.json nor config\.json"):
        dual.load(tmp_path)


def test_pickled_weights_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        dual.load(folder)


def test_code_that_a_checkpoint_brings_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(projection="residual").save(folder)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    (folder / "heads.py").write_text("raise SystemExit('ran')")
    assert dual.load(folder).dim == 16


def test_modules_of_other_packages_are_not_imported(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build().save(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "antigravity.Router"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="antigravity"):
        dual.load(folder)


def test_a_config_with_remote_code_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(ModelError, match="auto_map"):
        dual.load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text/tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["somebody/code--evil.Evil", null]}}'),
        ("preprocessor_config.json", '{"auto_map": {"AutoImageProcessor": "somebody/code--evil.Evil"}}'),
        ("config.json", r'{"text_config": {"auto\u005fmap": {"AutoConfig": "somebody/code--evil.Evil"}}}'),
    ],
)
def test_code_that_a_tokenizer_or_a_processor_asks_for_is_refused_too(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "model.safetensors").touch()
    refuse_unsafe(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match="auto_map"):
        refuse_unsafe(tmp_path)
    (tmp_path / name).write_text('{"auto_map": ')
    with pytest.raises(ModelError, match=f"{Path(name).name}' is not valid JSON"):
        refuse_unsafe(tmp_path)


def test_a_name_that_is_not_valid_on_the_hub_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot fetch 'runs/my model'"):
        dual.load("runs/my model")


def test_the_identity_changes_with_a_weight_and_with_the_preprocessing() -> None:
    model = build()
    identity = model.fingerprint()
    assert build(crop="squash").fingerprint() != identity
    with torch.no_grad():
        next(model.model.parameters()).add_(1e-3)
    assert model.fingerprint() != identity


def test_the_identity_is_the_same_before_and_after_a_batch_was_padded(tmp_path: Path) -> None:
    build().save(tmp_path)
    model = dual.load(tmp_path, "cpu")
    tokenizer = model.route("text")[0].tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    identity = model.fingerprint()
    model.encode_texts(["a", "a longer text"])
    assert tokenizer.padding is not None
    assert model.fingerprint() == identity
