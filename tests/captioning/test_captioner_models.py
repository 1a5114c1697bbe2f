"""Captioners of transformers, on tiny checkpoints of the real architectures: their own `generate` and logits agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diptych.captioning.captioner import Captioner, load_captioner
from diptych.errors import ModelError

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = ["a", "red", "blue", "dog", "cat", "on", "boat", "the"]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # GPT-2's
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def images(count: int = 3) -> list[Image.Image]:
    """Of different shapes, which some models cut into different numbers of tiles."""
    random, shapes = np.random.default_rng(0), [(40, 50, 3), (80, 30, 3), (30, 80, 3)]
    return [Image.fromarray(random.integers(0, 255, shape, np.uint8)) for shape in shapes[:count]]


def scatter(model: nn.Module, std: float) -> None:
    """Larger weights than the usual random ones, which give nearly equal logits."""
    torch.manual_seed(3)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=std)


def make_blip(folder: Path, words: Sequence[str] = WORDS, std: float = 0.35) -> None:
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    vocabulary = {word: i for i, word in enumerate((*MARKS, *words))}
    text = {**SMALL, "vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 32,
            "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}  # fmt: skip
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION, projection_dim=8))
    scatter(model, std)
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True, additional_special_tokens=["[DEC]"])
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def make_vit_gpt2(folder: Path, words: Sequence[str] = WORDS, std: float = 0.35) -> None:
    """As nlpconnect/vit-gpt2-image-captioning: GPT-2's one special token begins, ends and pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    words = ["<|endoftext|>", "[UNK]", *words]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    mark = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=mark, eos_token=mark, unk_token="[UNK]")
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(words), "n_positions": 40, **NO_DROPOUT}
    decoder = GPT2LMHeadModel(GPT2Config(**shape, add_cross_attention=True, bos_token_id=0, eos_token_id=0))
    model = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**VISION)), decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = 0
    scatter(model, std)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


CHAT = (
    "{% for message in messages %}USER {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ANSWER "
)


def chat_tokenizer(signs: Sequence[str] = ("<image>",)) -> Any:
    """Words and signs, the first of which is token 4."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *signs, "describe", "picture", "USER", "ANSWER", *WORDS]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, additional_special_tokens=list(signs), **marks)


def save_chat(model: Any, folder: Path) -> None:
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    scatter(model, 0.35)
    model.save_pretrained(folder)


def language(tokenizer: Any) -> dict[str, Any]:
    marks = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return {**SMALL, "num_key_value_heads": 2, "vocab_size": len(tokenizer), **marks}


def make_llava(folder: Path) -> None:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = chat_tokenizer()
    text, vision = LlamaConfig(**language(tokenizer)), CLIPVisionConfig(**VISION)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-1)
    save_chat(LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(images, tokenizer, chat_template=CHAT, **settings).save_pretrained(folder)


def make_smolvlm(folder: Path) -> None:
    """As HuggingFaceTB/SmolVLM-256M-Instruct, an Idefics 3: pictures are cut into tiles."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    places = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    tokenizer = chat_tokenizer(["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places])
    text = LlamaConfig(**language(tokenizer))
    config = Idefics3Config(vision_config=VISION, text_config=text, image_token_id=4, scale_factor=2, pad_token_id=0)
    save_chat(Idefics3ForConditionalGeneration(config), folder)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=CHAT).save_pretrained(folder)


def make_paligemma(folder: Path) -> None:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = chat_tokenizer()
    text = {**language(tokenizer), "model_type": "gemma", "head_dim": 8}
    vision = {**VISION, "model_type": "siglip_vision_model"}
    sizes = {"projection_dim": 16, "hidden_size": 16}
    config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=4, **sizes)
    save_chat(PaliGemmaForConditionalGeneration(config), folder)
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "blip": make_blip,
    "vit-gpt2": make_vit_gpt2,
    "llava": make_llava,
    "smolvlm": make_smolvlm,
    "paligemma": make_paligemma,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="module", params=MAKERS)
def captioner(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Captioner:
    return load_captioner(folders[request.param], "cpu")


METHODS = [{"method": "greedy"}, {"beams": 3, "count": 2}, {"method": "nucleus", "count": 3, "seed": 2}]


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_every_method_gives_distinct_captions_of_each_image(captioner: Captioner, settings: dict) -> None:
    told = captioner.caption(images(), max_tokens=8, **settings)
    assert len(told) == 3
    for captions in told:
        texts = [caption.text for caption in captions]
        assert len(set(texts)) == len(texts) <= settings.get("count", 1)
        assert [caption.score for caption in captions] == sorted((c.score for c in captions), reverse=True)
        assert all(caption.score <= 0 for caption in captions)
        assert not any(mark in text for text in texts for mark in ("[", "<", "describe picture"))
    assert captioner.caption(images(), max_tokens=8, **settings) == told


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_batches_give_the_captions_of_single_images(captioner: Captioner, settings: dict) -> None:
    together = captioner.caption(images(), max_tokens=8, **settings)
    apart = captioner.caption(images(), max_tokens=8, batch_size=1, **settings)
    assert [[each.text for each in of_one] for of_one in together] == [[e.text for e in of_one] for of_one in apart]


def test_a_low_temperature_samples_the_greedy_caption(captioner: Captioner) -> None:
    drawn = captioner.caption(images(), method="nucleus", temperature=1e-3, max_tokens=8)
    greedy = captioner.caption(images(), method="greedy", max_tokens=8)
    assert [of_one[0].text for of_one in drawn] == [of_one[0].text for of_one in greedy]


def test_the_captions_of_a_batch_begin_with_the_prefix(captioner: Captioner) -> None:
    captions = captioner.caption(images(), prefix="a red", max_tokens=8)
    assert all(caption.text.startswith("a red") for (caption,) in captions)
    alone = captioner.caption(images()[1:2], prefix="a red", max_tokens=8)
    assert captions[1][0].text == alone[0][0].text


class Numbers:
    """In a tokenizer's place: shows the tokens themselves."""

    def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [" ".join(map(str, row)) for row in rows.tolist()]


@pytest.mark.parametrize("name", ["blip", "vit-gpt2"])
@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_score_is_the_mean_log_probability_under_the_models_own_logits(folders, name: str, settings: dict) -> None:
    captioner = load_captioner(folders[name], "cpu")
    writer = captioner.model
    writer.tokenizer = Numbers()
    pixels = writer.prepare(images())["pixel_values"]
    for image, captions in enumerate(captioner.caption(images(), max_tokens=6, **settings)):
        for caption in captions:
            start, *generated = map(int, caption.text.split())
            generated = generated[: generated.index(writer.end) + 1] if writer.end in generated else generated
            line = torch.tensor([[start, *generated]])
            with torch.inference_mode():
                known = writer.logits(pixels[image : image + 1], line[:, :-1]).log_softmax(-1)
            mean = known.gather(2, line[:, 1:, None]).mean().item()
            assert caption.score == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("name", ["blip", "vit-gpt2"])
def test_logits_are_those_that_transformers_gives_row_by_row(folders, name: str) -> None:
    writer = load_captioner(folders[name], "cpu").model
    pixels = writer.prepare(images(2))["pixel_values"]
    tokens = torch.tensor([[writer.start, *rest] for rest in ((6, 7), (8, 9), (6, 9), (7, 8))])
    argument = "input_ids" if name == "blip" else "decoder_input_ids"
    with torch.inference_mode():
        told = writer.logits(pixels, tokens)
        wanted = writer.model(pixel_values=pixels.repeat_interleave(2, 0), **{argument: tokens}).logits
    torch.testing.assert_close(told, wanted, atol=1e-5, rtol=1e-4)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes((folders["blip"] / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="not a captioner that can be loaded"):
        load_captioner(tmp_path)
    with pytest.raises(ModelError, match="there is no model"):
        load_captioner(tmp_path / "nothing")


@pytest.mark.parametrize("config", ["{", "[]", '{"architectures": 3}'])
def test_a_damaged_configuration_is_named(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_captioner(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_bytes((folders["vit-gpt2"] / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickle"):
        load_captioner(tmp_path)
