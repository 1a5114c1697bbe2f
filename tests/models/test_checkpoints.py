"""A model's directory is a stranger's: what in it would run code, be unpickled or lead elsewhere is refused unread."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.captioning.captioner import load_captioner
from diptych.errors import ModelError
from diptych.matching.matcher import load_matcher
from diptych.models import builder, towers
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import BUNDLED, refuse_unsafe
from diptych.models.safety import OUR_MODULES, module_types
from diptych.prompting.prompter import load_prompter

TEXTS = ["a red circle", "two small blue squares left of a tree", "sun"]


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def encoder() -> dual.DualEncoder:
    """A tiny dual encoder with heads of ours, which is what loading trusts a class for."""
    small = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    fixed: dict[str, Any] = {"pretrained": False, "captions": TEXTS, "text_arguments": small, "dim": 16}
    return builder.build("timm/test_resnet", "distilbert", projection="residual", image_size=32, device="cpu", **fixed)


@pytest.fixture
def folder(encoder: dual.DualEncoder, tmp_path: Path) -> Path:
    encoder.save(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **settings: Any) -> None:
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**content, **settings}), "utf-8")


def add_module(folder: Path, kind: str, **config: Any) -> Path:
    """One more module in a model's Router, with its configuration."""
    routes = json.loads((folder / "router_config.json").read_text("utf-8"))
    change(folder / "router_config.json", types={**routes["types"], "extra": kind})
    (folder / "extra").mkdir()
    change(folder / "extra" / "config.json", **config)
    return folder / "extra" / "config.json"


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "antigravity.fly", "torch.hub.load", "torch.nn.evil"]
)
def test_an_activation_function_that_is_no_module_of_torch_is_refused_before_it_is_imported(
    folder: Path, name: str
) -> None:
    dense = "sentence_transformers.base.modules.dense.Dense"
    config = add_module(folder, dense, in_features=16, out_features=16, activation_function=name)
    before = set(sys.modules)
    with pytest.raises(ModelError, match=f"'{config}' names the activation function '{name}'"):
        dual.load(folder)
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "name", ["torch.nn.modules.activation.GELU", "torch.nn.Tanh", "torch.nn.modules.linear.Identity"]
)
def test_activations_of_torch_are_read(folder: Path, name: str) -> None:
    (folder / "extra").mkdir()
    change(folder / "extra" / "config.json", in_features=16, out_features=16, activation_function=name)
    change(folder / "extra2_config.json", activation_function="gelu_new")  # as GPT-2's configuration has it
    refuse_unsafe(folder)


@pytest.mark.parametrize(
    "name",
    [
        "antigravity.Router",
        "diptych.__main__.ResidualHead",
        "diptych.ResidualHead",
        "sentence_transformers.base.model.torch",
        "sentence_transformers.base.model.Path",
        "sentence_transformers..os.system",
        "sentence_transformers.there.is.None",
    ],
)
def test_a_module_that_is_no_module_is_refused_by_name(folder: Path, name: str) -> None:
    add_module(folder, name)
    with pytest.raises(ModelError, match=r"router_config\.json' needs code") as refused:
        dual.load(folder)
    assert name in str(refused.value)
    assert "antigravity" not in sys.modules


def test_a_router_that_names_its_modules_in_its_old_place_is_held_to_the_same(folder: Path) -> None:
    (folder / "old").mkdir()
    change(folder / "old" / "config.json", types={"0": "antigravity.Module"}, structure={}, parameters={})
    with pytest.raises(ModelError, match=r"old.config.json' needs code .*antigravity"):
        refuse_unsafe(folder)


def test_a_tokenizer_class_of_another_package_is_refused(folder: Path) -> None:
    words = "sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings"
    add_module(folder, words)
    change(folder / "extra" / "wordembedding_config.json", tokenizer_class="antigravity.Tokenizer")
    with pytest.raises(ModelError, match=r"wordembedding_config.json' names the tokenizer 'antigravity.Tokenizer'"):
        dual.load(folder)


@pytest.mark.parametrize("decoy", [False, True])
def test_no_setting_has_a_pickle_read(folder: Path, tmp_path: Path, decoy: bool) -> None:
    tower = folder / "text_0_Transformer"
    torch.save(Touch(tmp_path / "ran"), tower / "pytorch_model.bin")
    if decoy:  # transformers takes it unless told otherwise
        change(tower / "sentence_bert_config.json", model_args={"use_safetensors": False, "weights_only": False})
    else:  # and looks for it by this name alone
        (tower / "model.safetensors").rename(tower / "weights.safetensors")
    with pytest.raises(ModelError, match="pickle"):
        dual.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("image_0_Transformer/config.json", {"model_args": {"checkpoint_path": "weights.txt"}}, "checkpoint_path"),
        ("image_0_Transformer/config.json", {"architecture": "hf_hub:somebody/evil"}, "hf_hub:somebody/evil"),
        ("text_0_Transformer/config.json", {"transformers_weights": "adapter_model.bin"}, "adapter_model.bin"),
        ("text_0_Transformer/adapter_config.json", {"base_model_name_or_path": "somebody/evil"}, "adapter of another"),
        (
            "open_clip_config.json",
            {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}},
            "trust_remote_code",
        ),
        ("text_0_Transformer/model.safetensors.index.json", {"weight_map": {"a": "weights.txt"}}, "weights.txt"),
        ("text_0_Transformer/Config.JSON", {"auto_map": {"AutoModel": "a.B"}}, "auto_map"),
    ],
)
def test_a_setting_that_leads_to_pickles_code_or_another_model_is_refused(
    folder: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    refuse_unsafe(folder)
    change(folder / name, **settings)
    with pytest.raises(ModelError, match=message) as refused:
        refuse_unsafe(folder)
    assert name.rpartition("/")[2] in str(refused.value)


def test_a_folder_behind_a_link_is_looked_into_and_a_circle_of_links_ends(folder: Path, tmp_path: Path) -> None:
    (folder / "again").symlink_to(folder, target_is_directory=True)
    refuse_unsafe(folder)
    (folder / "elsewhere").mkdir()
    (folder / "more").symlink_to(folder / "elsewhere", target_is_directory=True)
    change(folder / "elsewhere" / "config.json", auto_map={"AutoModel": "a.B"})
    with pytest.raises(ModelError, match="auto_map"):
        refuse_unsafe(folder)
    (folder / "elsewhere").rename(tmp_path / "elsewhere")
    (folder / "more").unlink()
    (folder / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ModelError, match=r"more' is a link to .*outside the model's folder"):
        refuse_unsafe(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", "{}["),
        ("modules.json", '{"a": 1}'),
        ("router_config.json", '{"types": 3}'),
        ("text_0_Transformer/config.json", "[1]"),
        ("image_1_ResidualHead/config.json", '{"in_features": "16", "out_features": null}'),
        ("diptych.json", "[]"),
        ("diptych.json", '{"logit_scale": "warm"}'),
    ],
)
def test_a_damaged_file_is_a_model_error(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, "utf-8")
    with pytest.raises(ModelError):
        dual.load(folder)


@pytest.mark.parametrize("load", [load_matcher, load_captioner, load_prompter])
@pytest.mark.parametrize("content", ["[]", "{", '{"KIND": 3}', '{"KIND": [1]}', '{"KIND": {"pair": 3}}'])
def test_damaged_metadata_is_a_model_error_for_matcher_captioner_and_prompter(
    folder: Path, load: Callable[..., Any], content: str
) -> None:
    kind = load.__name__.removeprefix("load_")
    (folder / "diptych.json").write_text(content.replace("KIND", kind), "utf-8")
    with pytest.raises(ModelError):
        load(folder, device="cpu")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_towers_directory_obeys_the_same_rules(encoder: dual.DualEncoder, tmp_path: Path, modality: str) -> None:
    trunk: Any = encoder.route(modality)[0]
    for part in (trunk.model, trunk.processor):
        part.save_pretrained(tmp_path)
    make = {"image": towers.image_tower, "text": towers.text_tower}[modality]
    make(str(tmp_path))[0].save(str(tmp_path / "saved"))
    refuse_unsafe(tmp_path / "saved")
    (tmp_path / "model.safetensors").unlink()
    torch.save(trunk.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        make(str(tmp_path))


def test_what_diptych_writes_passes(folder: Path) -> None:
    refuse_unsafe(folder)
    assert "diptych.models.heads.ResidualHead" in module_types(folder / "router_config.json")
    assert dual.load(folder, "cpu").dim == 16
    refuse_unsafe(BUNDLED / "mini")
    assert module_types(BUNDLED / "mini" / "router_config.json")


def test_every_class_of_ours_that_a_model_may_name_is_there() -> None:
    import importlib

    for name in OUR_MODULES.values():
        module, _, kind = name.rpartition(".")
        assert hasattr(importlib.import_module(module), kind)
