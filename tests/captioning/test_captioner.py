"""Captioners: beam search against exhaustive search, cached keys against full passes, batches against single images."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diptych.captioning.candidates import choose, rank_candidates
from diptych.captioning.captioner import Captioner, load_captioner
from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.grid_captioner import GridCaptionModel, load_grid_model, save_captioner
from diptych.captioning.many_images import caption_images
from diptych.captioning.strategies import GenerationConfig, generate, nucleus, prefill, repeats, sample
from diptych.captioning.vocabulary import END, PAD, START, UNKNOWN, Words, text_of, words_of
from diptych.errors import ConfigError, ModelError
from diptych.images.decode import decode
from diptych.models import builder
from diptych.models import dual_encoder as dual
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates, compute_hidden_states

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# decoding with a bigram model


class Table:
    """A bigram language model: (images, vocabulary, vocabulary) logits of the next word."""

    def __init__(self, logits: Tensor, width: int) -> None:
        self.logits, self.width = logits, width
        self.images = torch.arange(len(logits)).repeat_interleave(width)
        self.steps = 0

    def step(self, words: Tensor, parents: Tensor | None = None) -> Tensor:
        if parents is not None:
            self.images = self.images[parents]
        self.steps += 1
        return self.logits[self.images, words]

    def keep(self, images: Tensor) -> None:
        pass  # `parents` names the captions that stay


WORDS = 5  # 0 begins a caption, 1 ends it


def table(images: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(images, WORDS, WORDS, generator=torch.Generator().manual_seed(seed)) * 2


def every_caption(logits: Tensor, config: GenerationConfig) -> list[tuple[float, tuple[int, ...], float]]:
    """Every caption of an image by exhaustive search: (penalised score, words, mean log-probability), best first."""
    log_probs = logits.log_softmax(-1)
    captions = []
    for length in range(config.max_tokens):
        for words in itertools.product(range(2, WORDS), repeat=length):
            if any(repeats(words[:i], config.no_repeat) == [words[i]] for i in range(length)) and config.no_repeat:
                continue
            line = (0, *words, 1)
            total = sum(log_probs[a, b].item() for a, b in itertools.pairwise(line))
            captions.append((total / (length + 1) ** config.length_penalty, words, total / (length + 1)))
    return sorted(captions, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_is_wide_enough_finds_what_exhaustive_search_finds(seed: int, length_penalty: float) -> None:
    config = GenerationConfig(beams=100, count=3, max_tokens=4, length_penalty=length_penalty, no_repeat=2)
    logits = table(seed=seed)
    hypotheses = generate(Table(logits, config.width), len(logits), config, start=0, end=1, suppress=(0,))
    for image, captions in enumerate(hypotheses):
        best = every_caption(logits[image], config)[:3]
        assert [caption.tokens for caption in captions] == [words for _, words, _ in best]
        assert [caption.score for caption in captions] == pytest.approx([score for *_, score in best], abs=1e-5)


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    logits = table(60, seed=7)
    logits[:, :, 0] = -torch.inf
    hypotheses = generate(
        Table(logits, 1), 60, GenerationConfig("greedy", max_tokens=6, no_repeat=0), start=0, end=1, suppress=(0,)
    )
    for image, (caption,) in enumerate(hypotheses):
        words, last = [], 0
        while len(words) < 5 and (last := int(logits[image, last].argmax())) != 1:
            words.append(last)
        assert caption.tokens == tuple(words)


def test_a_search_ends_when_no_partial_caption_can_still_win() -> None:
    logits = torch.full((1, WORDS, WORDS), -10.0)
    logits[:, :, 1] = 10.0  # every caption ends at once
    state = Table(logits, 1)
    generate(state, 1, GenerationConfig("greedy", max_tokens=50), start=0, end=1)
    assert state.steps <= 2


def test_the_nucleus_is_the_fewest_words_that_reach_top_p() -> None:
    chances = torch.tensor([[0.1, 0.5, 0.25, 0.15]])
    assert nucleus(chances.clone(), 0.7).tolist() == [[0.0, 0.5, 0.25, 0.0]]
    assert nucleus(chances.clone(), 0.5).tolist() == [[0.0, 0.5, 0.0, 0.0]]
    assert torch.equal(nucleus(chances.clone(), 1.0), chances)


def test_samples_are_as_frequent_as_they_are_probable() -> None:
    logits = torch.log(torch.tensor([[[1e-9, 0.2, 0.5, 0.3, 1e-9]] * WORDS]))
    config = GenerationConfig("nucleus", count=4000, top_p=1.0, max_tokens=2, no_repeat=0)
    state = Table(logits, config.width)
    first = [sampled.tokens[:1] for sampled in sample(state, prefill(state, 4000, (0,)), [0], config, 1)[0]]
    shares = [sum(each == wanted for each in first) / 4000 for wanted in ((), (2,), (3,))]
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.03)


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24], ids=["the least", "the greatest"])
def test_suppressed_tokens_are_never_sampled(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, chance))
    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)).expand(1, 5000, 5000)
    config = GenerationConfig("nucleus", max_tokens=2, no_repeat=0, top_p=1.0)
    never = (0, 4999)
    (drawn,) = sample(Table(logits, 1), logits[0, :1], [0], config, 1, never)
    assert not set(drawn[0].tokens) & set(never)
    assert math.isfinite(drawn[0].score)


def test_a_low_temperature_samples_the_greedy_caption() -> None:
    logits = table(3, seed=2)
    config = GenerationConfig("nucleus", temperature=1e-3, max_tokens=6, no_repeat=0)
    drawn = generate(Table(logits, 1), 3, config, start=0, end=1, suppress=(0,))
    greedy = generate(
        Table(logits, 1), 3, GenerationConfig("greedy", max_tokens=6, no_repeat=0), start=0, end=1, suppress=(0,)
    )
    assert [of_one[0].tokens for of_one in drawn] == [of_one[0].tokens for of_one in greedy]


def test_samples_do_not_depend_on_the_rest_of_the_batch() -> None:
    logits, config = table(4, seed=3), GenerationConfig("nucleus", count=2, max_tokens=6, seed=11)
    arguments = {"start": 0, "end": 1, "suppress": (0,)}
    together = generate(Table(logits, 2), 4, config, **arguments)
    apart = [
        generate(Table(logits[i : i + 1], 2), 1, config, image_seeds=[i], **arguments)[0] for i in range(len(logits))
    ]
    assert [[hypothesis.tokens for hypothesis in of_one] for of_one in together] == [
        [e.tokens for e in of_one] for of_one in apart
    ]


def test_a_caption_ends_within_max_tokens() -> None:
    logits = torch.zeros(1, WORDS, WORDS)
    logits[:, :, 1] = -20.0  # the end token is improbable everywhere
    (captions,) = generate(
        Table(logits, 3), 1, GenerationConfig(max_tokens=7, no_repeat=0), start=0, end=1, suppress=(0,)
    )
    assert len(captions[0].tokens) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "beems"}, "beam"),
        ({"beams": 0}, "at least 1"),
        ({"method": "greedy", "count": 2}, "one caption"),
        ({"temperature": 0.0}, "at least 0.001"),
        ({"top_p": 1.5}, "at most 1"),
    ],
)
def test_a_generation_config_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**settings)


# words


def test_captions_are_encoded_and_decoded() -> None:
    words = Words.learn(["A dog's ball .", "a dog runs", "a T-shirt"], min_count=1)
    assert words.decode(words.encode("A dog's T-shirt!")) == "a dog's t-shirt"
    assert words.words[:2] == ["a", "dog"]
    assert words.encode("a zebra")[1] == UNKNOWN
    assert words_of('It isn’t "here", left-hand') == ["it", "isn", "'t", "here", "left-hand"]
    assert text_of(["the", "dog", "'s", "ball"]) == "the dog's ball"


def test_rare_words_are_left_out_and_a_batch_is_padded_after_its_end_tokens() -> None:
    words = Words.learn(["a dog", "a cat", "a dog runs"], min_count=2)
    assert words.words == ["a", "dog"]
    assert words.batch(["a dog", "a", "a cat a dog"], 3).tolist() == [
        [START, 4, 5, END, PAD],
        [START, 4, END, PAD, PAD],
        [START, 4, UNKNOWN, 4, END],
    ]


# the decoder


@pytest.fixture(scope="module")
def decoder() -> CaptionDecoder:
    torch.manual_seed(0)
    decoder = CaptionDecoder(20, 4, 6, 5, dim=16, layers=2, heads=2, max_tokens=12).eval()
    for weight in decoder.parameters():  # default initialisation gives nearly equal logits
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4)
    return decoder


def states(images: int) -> HiddenStates:
    generator = torch.Generator().manual_seed(images)
    return HiddenStates(torch.randn(images, 5, generator=generator), torch.randn(images, 4, 6, generator=generator))


@torch.inference_mode()
def test_cached_keys_and_values_give_the_logits_of_a_full_pass(decoder: CaptionDecoder) -> None:
    memory = decoder.encode(states(3))
    words = torch.randint(4, 20, (6, 7), generator=torch.Generator().manual_seed(1))  # two captions of each picture
    whole = decoder(memory, words)
    state = decoder.start(memory)
    for i in range(7):
        torch.testing.assert_close(state.step(words[:, i]), whole[:, i], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_reordered_captions_and_finished_images_leave_the_rest_unchanged(decoder) -> None:
    memory = decoder.encode(states(3))
    begun = torch.tensor([[1, 5], [1, 6], [1, 7], [1, 8], [1, 9], [1, 10]])
    state = decoder.start(memory)
    for i in range(2):
        state.step(begun[:, i])
    state.keep(torch.tensor([0, 2]))
    logits = state.step(torch.tensor([11, 12, 13, 14]), torch.tensor([1, 1, 5, 4]))
    lines = torch.tensor([[1, 6, 11], [1, 6, 12], [1, 10, 13], [1, 9, 14]])
    torch.testing.assert_close(logits, decoder(memory[[0, 2]], lines)[:, -1], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_no_word_attends_to_later_words(decoder: CaptionDecoder) -> None:
    memory = decoder.encode(states(1))
    first, other = torch.tensor([[1, 5, 6, 7]]), torch.tensor([[1, 5, 9, 8]])
    torch.testing.assert_close(decoder(memory, first)[:, :2], decoder(memory, other)[:, :2])
    assert not torch.allclose(decoder(memory, first)[:, 2], decoder(memory, other)[:, 2])


# a captioner on a dual encoder


@pytest.fixture(scope="module")
def encoder(scenes: Path) -> DualEncoder:
    from diptych.data.formats.read import read_pairs
    from tests.conftest import TINY

    torch.manual_seed(0)
    kept = ("projection", "dim", "pretrained", "text_arguments", "image_size", "crop", "device")
    settings = {name: TINY[name] for name in kept if name in TINY}
    return builder.build(
        TINY["image_tower"], TINY["text_tower"], captions=read_pairs(scenes).flat_captions()[0], **settings
    )


@pytest.fixture(scope="module")
def writer(encoder: DualEncoder, images: list[Image.Image]) -> GridCaptionModel:
    torch.manual_seed(1)
    with torch.inference_mode():
        seen = compute_hidden_states(encoder, encoder.preprocess_images(images[:1]))
    words = Words(["a", "red", "blue", "dog", "boat", "'s", "on", "the", "sea"])
    settings = {"places": seen.states.shape[1], "image_width": seen.states.shape[2], "vector_dim": 16}
    settings |= {"dim": 16, "layers": 1, "heads": 2, "max_tokens": 12}
    decoder = CaptionDecoder(len(words), **settings)
    for weight in decoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.6)
    return GridCaptionModel(encoder, decoder, words, settings, {"length_penalty": 0.9})


@pytest.fixture(scope="module")
def images(scenes: Path) -> list[Image.Image]:
    return [decode(path) for path in sorted((scenes / "images").iterdir())[:5]]


METHODS = [{"method": "greedy"}, {"beams": 4, "count": 2}, {"method": "nucleus", "count": 3, "seed": 5}]


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_batches_give_the_captions_of_single_images(writer: GridCaptionModel, images: list, settings: dict) -> None:
    captioner = Captioner("tiny", writer)
    together = captioner.caption(images, batch_size=4, **settings)
    apart = captioner.caption(images, batch_size=1, **settings)
    assert [[each.text for each in of_one] for of_one in together] == [[e.text for e in of_one] for of_one in apart]
    scores = [each.score for of_one in together for each in of_one]
    assert scores == pytest.approx([each.score for of_one in apart for each in of_one], abs=1e-4)


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_score_is_the_mean_log_probability_of_the_words_and_the_end(
    writer: GridCaptionModel, images: list, settings: dict
) -> None:
    with torch.inference_mode():
        memory = writer.decoder.encode(compute_hidden_states(writer.encoder, writer.prepare(images)))
        for image, captions in enumerate(Captioner("tiny", writer).caption(images, max_tokens=10, **settings)):
            for caption in captions:
                line = torch.tensor([[START, *writer.words.encode(caption.text), END]])
                known = writer.decoder(memory[image : image + 1], line[:, :-1]).log_softmax(-1)
                mean = known.gather(2, line[:, 1:, None]).mean().item()
                assert caption.score == pytest.approx(mean, abs=1e-4)


def test_greedy_writes_what_transformers_writes_with_the_same_weights(writer: GridCaptionModel, images: list) -> None:
    spec = importlib.util.spec_from_file_location("captioning", BENCHMARKS / "captioning.py")
    assert spec
    assert spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    captioner, twin = Captioner("tiny", writer), benchmark.in_transformers(writer.decoder)
    config = captioner.generation_config(GenerationConfig("greedy", max_tokens=10))
    captions = [benchmark.by_transformers(writer, twin, image, config) for image in images]
    assert [of_one[0].text for of_one in captioner.caption(images, method="greedy", max_tokens=10)] == captions


def test_captions_are_distinct_and_have_no_special_tokens(writer: GridCaptionModel, images: list) -> None:
    for captions in Captioner("tiny", writer).caption(images, count=4):
        texts = [caption.text for caption in captions]
        assert len(set(texts)) == 4
        assert not any("<" in text for text in texts)


def test_a_caption_begins_with_the_given_prefix(writer: GridCaptionModel, images: list) -> None:
    ((caption,),) = Captioner("tiny", writer).caption(images[:1], prefix="A red")
    assert caption.text.startswith("A red")
    with pytest.raises(ConfigError, match="12 at most"):
        Captioner("tiny", writer).caption(images[:1], prefix="a red dog " * 5)


def test_equal_seeds_sample_equal_captions_and_others_do_not(writer: GridCaptionModel, images: list) -> None:
    draws = [Captioner("tiny", writer).caption(images, method="nucleus", seed=seed) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_an_images_samples_do_not_depend_on_other_images(writer: GridCaptionModel, scenes: Path) -> None:
    drawn = {"method": "nucleus", "count": 2, "seed": 7}
    captioner, files = Captioner("tiny", writer), sorted((scenes / "images").iterdir())[:5]
    alone = [captioner.caption([decode(file)], **drawn)[0] for file in files]
    assert len({each[0].text for each in alone}) > 1
    named = [(file.name, file) for file in [*files[::-1], *files]]
    texts = [[each.text for each in of_one] for of_one in [*alone[::-1], *alone]]
    for batch_size in (1, 3, 16):
        described = caption_images(named, lambda images: captioner.caption(images, **drawn), batch_size=batch_size)
        assert [[each.text for each in of_one.texts] for of_one in described] == texts


def test_no_images_give_no_captions(writer: GridCaptionModel) -> None:
    assert Captioner("tiny", writer).caption([]) == []


@pytest.fixture(scope="module")
def saved(writer: GridCaptionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner")
    writer.encoder.save(folder)
    save_captioner(writer, folder)
    return folder


def test_a_saved_captioner_gives_the_same_captions_and_its_directory_stays_a_dual_encoder(
    writer, saved, images
) -> None:
    captioner = load_captioner(saved, "cpu")
    assert captioner.name == str(saved)
    assert captioner.generation_config(GenerationConfig()).length_penalty == 0.9
    assert captioner.caption(images, count=2) == Captioner("tiny", writer).caption(images, count=2)
    assert np.allclose(dual.load(saved).encode_images(images), writer.encoder.encode_images(images), atol=1e-5)


def test_half_precision_halves_the_file_and_hardly_changes_the_score(writer, saved, tmp_path, images) -> None:
    writer.encoder.save(tmp_path)
    save_captioner(writer, tmp_path, half=True)
    sizes = [(folder / "captioner.safetensors").stat().st_size for folder in (tmp_path, saved)]
    assert sizes[0] < 0.6 * sizes[1]
    scores = [load_captioner(folder, "cpu").caption(images)[0][0].score for folder in (tmp_path, saved)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_missing_or_damaged_captioner_is_an_error_with_the_next_step(writer, saved, tmp_path) -> None:
    writer.encoder.save(tmp_path)
    with pytest.raises(ModelError, match="diptych train caption"):
        load_captioner(tmp_path)
    with pytest.raises(ModelError, match="save the encoder there first"):
        save_captioner(writer, tmp_path / "nothing")
    card = json.loads((saved / "diptych.json").read_text())
    (tmp_path / "diptych.json").write_text(json.dumps(card))
    (tmp_path / "captioner.txt").write_text("one word\n")
    (tmp_path / "captioner.safetensors").write_bytes((saved / "captioner.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot load the captioner"):
        load_grid_model(tmp_path)


# candidates


def test_candidates_are_ranked_by_cosine_and_their_probabilities_sum_to_1(encoder, images) -> None:
    texts = ["a red star", "a dog", "blue boats on the sea"]
    for image, ranked in zip(images, rank_candidates(images, texts, encoder), strict=True):
        cosines = (encoder.encode_images([image]) @ encoder.encode_texts(texts).T)[0]
        assert [candidate.text for candidate in ranked] == [texts[i] for i in np.argsort(-cosines)]
        assert [candidate.similarity for candidate in ranked] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
        assert sum(candidate.probability for candidate in ranked) == pytest.approx(1)
        wanted = [math.exp(encoder.logit_scale * (candidate.similarity - ranked[0].similarity)) for candidate in ranked]
        assert [candidate.probability / ranked[0].probability for candidate in ranked] == pytest.approx(
            wanted, rel=1e-3
        )


def test_a_high_temperature_levels_the_probabilities_and_a_template_changes_the_embeddings(encoder, images) -> None:
    texts = ["a red star", "a dog"]
    level = rank_candidates(images[:1], texts, encoder, temperature=1000.0)[0]
    assert level[0].probability == pytest.approx(0.5, abs=0.01)
    plain = rank_candidates(images[:1], texts, encoder)[0]
    framed = rank_candidates(images[:1], texts, encoder, templates=("a photo of {}.", "no {} here"))[0]
    assert {candidate.similarity for candidate in plain} != {candidate.similarity for candidate in framed}


@pytest.mark.parametrize(
    "settings", [{"texts": []}, {"texts": ["a", " "]}, {"templates": ("a photo",)}, {"temperature": 0.0}], ids=str
)
def test_candidates_that_cannot_be_ranked_are_refused(encoder, images, settings) -> None:
    with pytest.raises(ConfigError):
        rank_candidates(images[:1], settings.pop("texts", ["a dog"]), encoder, **settings)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1e6])
def test_generated_captions_are_ordered_by_captioner_and_matcher_together(writer, encoder, images, weight) -> None:
    from diptych.matching.calibration import Calibration
    from diptych.matching.heads import CosineHead
    from diptych.matching.matcher import Matcher

    matcher = Matcher(encoder, CosineHead(), Calibration({"head": 5.0}, 0.0), name="cosine")
    choices = choose(images, Captioner("tiny", writer), matcher, GenerationConfig(count=4), weight=weight)
    for image, chosen in zip(images, choices, strict=True):
        logits = [math.log(choice.confidence / (1 - choice.confidence)) for choice in chosen]
        both = [choice.score + weight * logit for choice, logit in zip(chosen, logits, strict=True)]
        assert both == sorted(both, reverse=True)
        sure = matcher.predict([image] * len(chosen), [choice.text for choice in chosen])
        assert [choice.confidence for choice in chosen] == pytest.approx(sure, abs=1e-5)
