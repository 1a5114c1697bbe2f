"""Each family of models that diptych loads by name, on a tiny checkpoint of its real architecture made here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

from diptych.models import builder, two_towers
from diptych.models import dual_encoder as dual
from diptych.models.truncation import TextCutWarning

TEXTS = ["a red circle", "Two small blue squares left of a tree", "sun"]
LIMIT = 40  # tokens; the texts above fit, letter by letter
SIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_images(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * n, 50, 3), dtype=np.uint8)) for n in range(count)]


def save_clip(folder: Path) -> None:
    """A CLIP as ViT-B/32's repository holds it: byte-level tokens, patches, a projection on both sides."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=LIMIT)
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = {**SIDE, **ids, "vocab_size": len(words), "max_position_embeddings": LIMIT}
    config = CLIPConfig(text_config=text, vision_config={**SIDE, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    """A SigLIP: SentencePiece tokens, the last position read, a projection of another width than the tower."""
    import sentencepiece
    from transformers import SiglipImageProcessor, SiglipModel, SiglipProcessor, SiglipTokenizer

    (folder / "texts.txt").write_text("\n".join(TEXTS * 20), encoding="utf-8")
    pieces = {"input": str(folder / "texts.txt"), "model_prefix": str(folder / "spiece"), "vocab_size": 60}
    ids = {"unk_id": 2, "eos_id": 1, "pad_id": 0, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(**pieces, **ids, minloglevel=2, hard_vocab_limit=False)
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LIMIT)
    SiglipModel(siglip_config(len(tokenizer))).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def save_siglip2(folder: Path) -> None:
    """A SigLIP 2 of a fixed resolution: SigLIP's architecture with Gemma's tokens."""
    from transformers import GemmaTokenizer, SiglipImageProcessor, SiglipModel, SiglipProcessor

    tokenizer = GemmaTokenizer(vocab=gemma_vocabulary(), add_bos_token=False, add_eos_token=True)
    SiglipModel(siglip_config(len(tokenizer))).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def save_naflex(folder: Path) -> None:
    """A SigLIP 2 that takes pictures in their own shape, as a sequence of patches."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor, Siglip2Tokenizer

    tokenizer = Siglip2Tokenizer(vocab=gemma_vocabulary())
    sides = siglip_config(len(tokenizer)).to_dict()
    vision = {**SIDE, "hidden_size": 48, "num_patches": 16, "patch_size": 16}
    Siglip2Model(Siglip2Config(text_config=sides["text_config"], vision_config=vision)).save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessor(), tokenizer).save_pretrained(folder)


def siglip_config(vocabulary: int) -> Any:
    from transformers import SiglipConfig

    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    text = {**SIDE, **ids, "vocab_size": vocabulary, "max_position_embeddings": LIMIT, "projection_size": 48}
    vision = {**SIDE, "hidden_size": 48, "image_size": 32, "patch_size": 8}
    return SiglipConfig(text_config=text, vision_config=vision)


def gemma_vocabulary() -> dict[str, int]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [chr(code) for code in range(32, 127)] + ["▁"]
    return {token: code for code, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters])}


FAMILIES: dict[str, Callable[[Path], None]] = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": save_siglip2,
    "siglip2-naflex": save_naflex,
}
PADDED = ("siglip", "siglip2", "siglip2-naflex")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder named after its family, as its repository on the hub would be."""
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    folder.mkdir()
    torch.manual_seed(0)
    FAMILIES[request.param](folder)
    return folder


def reference(checkpoint: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray, Any]:
    """Unit vectors of the pictures and texts by transformers alone, as the model's own documentation says."""
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(checkpoint).eval(), AutoProcessor.from_pretrained(checkpoint)
    settings: dict[str, Any] = {"padding": True, "truncation": True, "max_length": LIMIT}
    if checkpoint.name in PADDED:
        settings |= {"padding": "max_length", "return_attention_mask": False}
        processor.tokenizer.padding_side = "right"
        texts = [text.lower() for text in texts]  # what the tower was trained on
    with torch.inference_mode():
        inputs = {
            **processor.image_processor(make_images(), return_tensors="pt"),
            **processor.tokenizer(texts, return_tensors="pt", **settings),
        }
        output = model(**inputs)
    return output.image_embeds.numpy(), output.text_embeds.numpy(), model


def test_a_checkpoint_gives_the_vectors_that_transformers_gives(checkpoint: Path) -> None:
    images, texts, network = reference(checkpoint, TEXTS)
    model = dual.load(checkpoint, "cpu")
    np.testing.assert_allclose(model.encode_images(make_images()), images, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), texts, atol=1e-5)
    assert model.dim == images.shape[1]
    assert model.logit_scale == pytest.approx(float(network.logit_scale.detach().exp()))
    assert model.logit_bias == float(getattr(network, "logit_bias", torch.zeros(1)).detach())


def test_a_texts_embedding_does_not_depend_on_its_batch(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    alone = np.concatenate([model.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, model.encode_texts(TEXTS), atol=1e-5)


def assert_saved_alike(model: dual.DualEncoder, folder: Path) -> None:
    """Save a model to a folder, and compare what is loaded from there with it."""
    model.save(folder)
    again = dual.load(folder, "cpu")
    np.testing.assert_array_equal(again.encode_images(make_images()), model.encode_images(make_images()))
    np.testing.assert_array_equal(again.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert again.fingerprint() == model.fingerprint()
    assert (again.logit_scale, again.logit_bias) == (model.logit_scale, model.logit_bias)


def test_a_checkpoint_that_diptych_saved_gives_the_same_vectors(checkpoint: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = dual.load(checkpoint, "cpu")
    assert_saved_alike(model, tmp_path)
    plain = SentenceTransformer(str(tmp_path), device="cpu")
    lower = [text.lower() for text in TEXTS]
    np.testing.assert_allclose(plain.encode(lower, normalize_embeddings=True), model.encode_texts(lower), atol=1e-5)


def test_the_towers_of_a_checkpoint_are_told_apart(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    image, text = (set(map(id, model.tower_parameters(modality).values())) for modality in two_towers.MODALITIES)
    rest = {
        name.rsplit(".", 1)[-1] for name, weight in model.model.named_parameters() if id(weight) not in image | text
    }
    assert not image & text
    assert rest <= {"logit_scale", "logit_bias"}


def test_a_text_beyond_the_limit_is_cut_there_with_one_warning_that_counts(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    long = "sun and moon " * 40
    with pytest.warns(TextCutWarning, match=rf"2 of 3 texts have more than the {LIMIT} tokens") as caught:
        vectors = model.encode_texts([long, TEXTS[0], long + "tree"])
    assert len([warning for warning in caught if warning.category is TextCutWarning]) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(vectors, reference(checkpoint, [long, TEXTS[0], long + "tree"])[1], atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)


def test_texts_within_the_limit_warn_of_nothing(checkpoint: Path) -> None:
    model = dual.load(checkpoint, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TextCutWarning)
        model.encode_texts(TEXTS)
        model.encode_texts([])


@pytest.mark.parametrize("text", ["", "   ", "🌞🐕", "ein Hund am Strand", "沙滩上的狗", "\u0000"])
def test_empty_text_emoji_and_other_languages_get_a_unit_vector(checkpoint: Path, text: str) -> None:
    vector = dual.load(checkpoint, "cpu").encode_texts([text])[0]
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_emoji_and_other_scripts_are_told_apart_unless_the_tokens_have_no_bytes(checkpoint: Path) -> None:
    first, second = dual.load(checkpoint, "cpu").encode_texts(["🌞", "狗"])
    assert np.allclose(first, second, atol=1e-5) == (checkpoint.name == "siglip")  # one unknown token for both


@pytest.fixture(scope="module")
def tutorial_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The CLIP tutorials' towers, ResNet50 and DistilBERT, as two narrow checkpoints such as the hub has."""
    from transformers import (
        DistilBertConfig,
        DistilBertModel,
        TimmWrapperConfig,
        TimmWrapperImageProcessor,
        TimmWrapperModel,
    )

    from diptych.models.towers import learn_tokenizer

    image, text = tmp_path_factory.mktemp("resnet50"), tmp_path_factory.mktemp("distilbert")
    narrow = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    cfg = {"input_size": [3, 64, 64], "num_features": 64, "crop_pct": 1.0, "interpolation": "bilinear"}
    cfg |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_mode": "center"}
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture="resnet50", model_args=narrow, num_features=64, pretrained_cfg=cfg)
    TimmWrapperModel(config).save_pretrained(image)
    TimmWrapperImageProcessor(pretrained_cfg=cfg, architecture="resnet50").save_pretrained(image)
    tokenizer = learn_tokenizer(TEXTS)
    small = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **small)).save_pretrained(text)
    tokenizer.save_pretrained(text)
    return image, text


@pytest.mark.parametrize("projection", ["linear", "mlp", "residual"])
def test_the_tutorials_pair_gives_its_towers_features_through_its_heads(
    tutorial_pair: tuple[Path, Path], projection: str, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    image, text = map(str, tutorial_pair)
    torch.manual_seed(0)
    model = builder.build(image, text, projection=projection, dim=16, text_pooling="cls", device="cpu")
    resnet, distilbert = AutoModel.from_pretrained(image).eval(), AutoModel.from_pretrained(text).eval()
    with torch.inference_mode():
        pixels = AutoImageProcessor.from_pretrained(image)(make_images(), return_tensors="pt")
        features = resnet(**pixels).pooler_output
        tokens = AutoTokenizer.from_pretrained(text)(TEXTS, padding=True, return_tensors="pt")
        states = distilbert(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state[:, 0]
        for modality, inputs in (("image", features), ("text", states)):
            passed = {"sentence_embedding": inputs}
            for module in model.head(modality):
                passed = module(passed)
            encoded = model.encode_images(make_images()) if modality == "image" else model.encode_texts(TEXTS)
            np.testing.assert_allclose(encoded, passed["sentence_embedding"], atol=1e-5)
    model.save(tmp_path)
    again = dual.load(tmp_path, "cpu")
    np.testing.assert_array_equal(again.encode_images(make_images()), model.encode_images(make_images()))
    np.testing.assert_array_equal(again.encode_texts(TEXTS), model.encode_texts(TEXTS))


def test_a_checkpoint_is_trained_further_and_loads_again(checkpoint: Path, tiny: Callable[..., Any]) -> None:
    from diptych.training.contrastive.train import train

    with pytest.warns(TextCutWarning):
        result = train(tiny(start=str(checkpoint), objective="sigmoid", epochs=1, text_arguments={}))
    before, after = dual.load(checkpoint, "cpu"), dual.load(result.model, "cpu")
    assert not np.allclose(after.encode_texts(TEXTS), before.encode_texts(TEXTS), atol=1e-4)
    assert not np.allclose(after.encode_images(make_images()), before.encode_images(make_images()), atol=1e-4)
    assert after.logit_scale != before.logit_scale
