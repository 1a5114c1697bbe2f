"""Tiny models of every kind that diptych loads, each with random weights in a folder of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.captioning.test_captioner_models import make_blip, make_vit_gpt2

TEXTS = ["a red circle", "two small blue squares left of a tree", "sun", "a dog"]
SIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def watch_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that are looked up from now on, with the hub's client made to believe that it has a network."""
    import huggingface_hub.constants

    addresses: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        addresses.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return addresses


@cache
def _encoder() -> Any:
    from diptych.models import builder

    small = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    fixed: dict[str, Any] = {"pretrained": False, "captions": TEXTS, "text_arguments": small, "dim": 16}
    return builder.build("timm/test_resnet", "distilbert", projection="residual", image_size=32, device="cpu", **fixed)


def make_dual(folder: Path) -> Path:
    _encoder().save(folder)
    return folder


def make_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from diptych.models.towers import learn_tokenizer

    tokenizer = learn_tokenizer(TEXTS)
    tokenizer.model_max_length = 32
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text = {**SIDE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    vision = {**SIDE, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def make_open_clip(folder: Path) -> Path:
    from tests.models.test_open_clip import ARCHITECTURES, save

    folder.mkdir(parents=True)
    save(folder, ARCHITECTURES["siglip"])
    return folder


def make_graphs(folder: Path, engine: str) -> Path:
    """A model whose towers are graphs: the mean of what goes in, over and over."""
    import onnx
    from onnx import TensorProto, helper

    from diptych.export.exporter import _write_modules
    from diptych.models.onnx.engines import GRAPHS
    from diptych.models.onnx.exported_tower import ExportedTower, read_front, write_front

    encoder, routes = _encoder(), {}
    for modality, name, kind, rank in (
        ("image", "pixel_values", TensorProto.FLOAT, 4),
        ("text", "input_ids", TensorProto.INT64, 2),
    ):
        place = folder / f"{modality}_0_ExportedTower"
        place.mkdir(parents=True)
        write_front(encoder.route(modality)[0], place)
        nodes = [
            helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["cast"], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Concat", ["mean"] * 16, ["out"], axis=1),
        ]
        given = [helper.make_tensor_value_info(name, kind, [f"d{at}" for at in range(rank)])]
        output = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["d0", 16])]
        model = helper.make_model(
            helper.make_graph(nodes, "tower", given, output),
            ir_version=8,
            opset_imports=[helper.make_opsetid("", 13)],
        )
        onnx.save(model, str(place / "graph.onnx"))
        if engine == "openvino":
            import openvino

            openvino.save_model(openvino.convert_model(str(place / "graph.onnx")), str(place / GRAPHS[engine]))
            (place / "graph.onnx").unlink()
        routes[modality] = [ExportedTower(place, read_front(place, modality), modality, engine, [name], 16)]
        routes[modality][0].save_config(str(place))
    _write_modules(routes, folder)
    return folder


def make_matcher(folder: Path) -> Path:
    from diptych.matching.calibration import Calibration
    from diptych.matching.heads import CosineHead
    from diptych.matching.matcher import Matcher
    from diptych.matching.storage import save_matchers

    make_dual(folder)
    save_matchers(
        [Matcher(_encoder(), CosineHead(), Calibration({"cosine": 1.0}, 0.0), name="cosine", settings={})], folder
    )
    return folder


def make_blip_itm(folder: Path) -> Path:
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForImageTextRetrieval,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[ENC]", "[DEC]", "a", "dog"]
    marks = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    text = {**SIDE, **marks, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    vision = {**SIDE, "image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=8, image_text_hidden_size=8)
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}, do_lower_case=True)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def make_grid_captioner(folder: Path) -> Path:
    from diptych.captioning.decoder import CaptionDecoder
    from diptych.captioning.grid_captioner import GridCaptionModel, save_captioner
    from diptych.captioning.vocabulary import Words

    make_dual(folder)
    words = Words(["<pad>", "<start>", "<end>", "<unknown>", "a", "dog"])
    settings = {"places": 1, "image_width": 8, "vector_dim": 16, "dim": 16, "layers": 1, "heads": 2}
    save_captioner(GridCaptionModel(_encoder(), CaptionDecoder(len(words), **settings), words, settings), folder)
    return folder


def make_prompter(folder: Path) -> Path:
    from diptych.prompting.features import ImageFeatures
    from diptych.prompting.prompter import Prompter, PromptHead
    from diptych.prompting.storage import save_prompter
    from diptych.prompting.text_space import load_text_space

    space = load_text_space(str(make_text_encoder(Path(mkdtemp()) / "text")), "cpu")
    images = ImageFeatures.of_tower(list(_encoder().tower("image")), "cpu")
    settings = {"width": images.width, "dim": space.dim, "hidden": 8}
    head = PromptHead(**settings)
    save_prompter(Prompter(images, head, name="p", settings=settings, space=lambda: space), folder)
    return folder


def make_text_encoder(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer

    modules = list(_encoder().tower("text"))
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def make_tower(folder: Path, modality: str) -> Path:
    trunk = _encoder().route(modality)[0]
    for part in (trunk.model, trunk.processor):
        part.save_pretrained(folder)
    return folder


def make_endpoint(folder: Path) -> Path:
    make_dual(folder / "model")
    return folder


def _whole(make: Callable[[Path], None]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        folder.mkdir(parents=True)
        make(folder)
        return folder

    return made


MAKERS: dict[str, Callable[[Path], Path]] = {
    "dual": make_dual,
    "clip": make_clip,
    "open_clip": make_open_clip,
    "onnx": lambda folder: make_graphs(folder, "onnx"),
    "openvino": lambda folder: make_graphs(folder, "openvino"),
    "matcher": make_matcher,
    "blip_itm": make_blip_itm,
    "grid_captioner": make_grid_captioner,
    "vit_gpt2": _whole(make_vit_gpt2),
    "blip": _whole(make_blip),
    "pipeline": _whole(make_blip),
    "prompter": make_prompter,
    "text_encoder": make_text_encoder,
    "text_tower": lambda folder: make_tower(folder, "text"),
    "image_tower": lambda folder: make_tower(folder, "image"),
    "endpoint": make_endpoint,
}
