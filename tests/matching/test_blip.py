"""BLIP's matching head behind the matcher's interface, on a tiny checkpoint with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.errors import ModelError
from diptych.matching.matcher import load_matcher
from diptych.matching.rerank import reranked_ranks

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[ENC]", "[DEC]", "a", "red", "blue", "dog", "cat", "on", "boat"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForImageTextRetrieval,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32,
            "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=8, image_text_hidden_size=8)
    model = BlipForImageTextRetrieval(config).eval()
    for weight in model.parameters():  # the usual random weights give nearly equal logits
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("blip")
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}, do_lower_case=True)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def make_images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (40, 50, 3), np.uint8)) for _ in range(3)]


TEXTS = ["a red dog", "a cat on a blue boat", "a boat"]


def test_probabilities_are_the_softmax_of_transformers_own_matching_logits(blip: Path) -> None:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model, processor = BlipForImageTextRetrieval.from_pretrained(blip).eval(), AutoProcessor.from_pretrained(blip)
    expected = []
    for image, text in zip(make_images(), TEXTS, strict=True):
        with torch.inference_mode():
            inputs = processor(images=image, text=text, return_tensors="pt")
            expected.append(float(model(**inputs, use_itm_head=True).itm_score.softmax(1)[0, 1]))
    probabilities = load_matcher(blip, device="cpu").predict(make_images(), TEXTS)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.ptp(probabilities) > 1e-3


def test_embeddings_give_transformers_own_cosines_for_reranking(blip: Path) -> None:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model, processor = BlipForImageTextRetrieval.from_pretrained(blip).eval(), AutoProcessor.from_pretrained(blip)
    matcher = load_matcher(blip, device="cpu")
    images, texts = matcher.encode_images(make_images()), matcher.encode_texts(TEXTS)
    with torch.inference_mode():
        inputs = processor(images=make_images()[0], text=TEXTS[0], return_tensors="pt")
        cosine = float(model(**inputs, use_itm_head=False).itm_score)
    assert float(images.embeddings[0] @ texts.embeddings[0]) == pytest.approx(cosine, abs=1e-5)
    assert set(reranked_ranks(matcher, images, texts, np.arange(3))) <= {1, 2, 3}


def test_a_checkpoint_with_pickled_weights_alone_is_refused(blip: Path, tmp_path: Path) -> None:
    config = json.loads((blip / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        load_matcher(tmp_path)
