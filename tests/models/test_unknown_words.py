"""A text of which the model knows no word is reported wherever it is embedded, matched, ranked or searched."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import diptych
from diptych.captioning.candidates import rank_candidates
from diptych.data.classes import Classes
from diptych.evaluation.image_classifier import ImageClassifier
from diptych.evaluation.prompts import score_images
from diptych.matching.match_table import read_match_table
from diptych.models.unknown_words import UnknownWordsWarning, unknown_in, unknown_words_message
from diptych.prompting.library import PromptLibrary
from diptych.prompting.text_space import load_text_space
from diptych.search.index import Index

FOREIGN = "собака на пляже"


@pytest.fixture(scope="module")
def mini() -> diptych.DualEncoder:
    return diptych.load("mini", device="cpu")


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", (64, 64), "red")


def test_texts_without_a_known_word_are_named_once_and_others_are_not(mini: diptych.DualEncoder) -> None:
    texts = ["犬", "a dog", FOREIGN, "犬", "犬!", "a 犬", "...", ""]
    assert mini.unknown_texts(texts) == ["犬", FOREIGN, "犬!"]


def test_embedding_a_text_without_a_known_word_warns_and_another_does_not(mini: diptych.DualEncoder) -> None:
    with pytest.warns(
        UnknownWordsWarning, match="does not know these words: “犬”; describe it in other words"
    ) as caught:
        mini.encode_texts(["a dog", "犬"])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mini.encode_texts(["a dog", "犬 and a dog", "...", ""])


def test_many_and_long_texts_are_named_in_a_bounded_message() -> None:
    message = unknown_words_message(["ж" * 1_000] * 1_000)
    assert len(message) < 600
    assert "and 995 more" in message


def test_a_matcher_says_which_texts_it_cannot_read(image: Image.Image) -> None:
    matcher = diptych.load_matcher("mini", device="cpu")
    with pytest.warns(UnknownWordsWarning, match=FOREIGN):
        matcher.predict([image], [FOREIGN])


def test_class_names_are_judged_without_their_templates(mini: diptych.DualEncoder) -> None:
    classes = Classes(("a", "b"), (FOREIGN, "a dog"))
    with pytest.warns(UnknownWordsWarning, match=FOREIGN):
        ImageClassifier(mini, classes).fit().predict(mini.encode_images([Image.new("RGB", (8, 8))]))


def test_candidate_captions_are_judged_without_their_templates(mini: diptych.DualEncoder, image: Image.Image) -> None:
    with pytest.warns(UnknownWordsWarning, match=FOREIGN):
        rank_candidates([image], [FOREIGN, "a dog"], mini, templates=["a photo of {}"])


def test_scored_prompts_are_judged_without_their_prefix(mini: diptych.DualEncoder, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.csv").write_text(f"image,prompt\na.png,{FOREIGN}\n", "utf-8")
    with pytest.warns(UnknownWordsWarning, match=FOREIGN):
        score_images(mini, read_match_table(tmp_path / "prompts.csv"))


def test_prompts_of_a_library_that_the_text_encoder_cannot_read_are_named() -> None:
    space = load_text_space("mini", "cpu")
    with pytest.warns(UnknownWordsWarning, match=FOREIGN):
        PromptLibrary.of(["a dog", FOREIGN], space)


def test_a_search_says_which_words_the_model_does_not_know(
    mini: diptych.DualEncoder, image: Image.Image, tmp_path: Path
) -> None:
    pytest.importorskip("lancedb")
    image.save(tmp_path / "a.png")
    index = Index(tmp_path, mini)
    index.add(tmp_path)
    with pytest.warns(UnknownWordsWarning):
        results = index.search(FOREIGN)
    assert results.unknown == (FOREIGN,)
    assert (
        results.message
        == f"nothing found: the model does not know these words: “{FOREIGN}”; describe it in other words"
    )
    assert results.to_dict()["unknown"] == [FOREIGN]
    with pytest.warns(UnknownWordsWarning):
        assert "does not know these words" in index.search(FOREIGN, keep=None).message
    assert index.search("a red square", keep=None).unknown == ()


def test_an_unknown_piece_of_a_unigram_vocabulary_is_found_by_its_id() -> None:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁dog", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert unknown_in(tokenizer, 0, ["犬", "dog", "犬 dog"]) == ["犬"]


def test_a_vocabulary_that_reads_every_byte_knows_every_text() -> None:
    assert unknown_in(Tokenizer(models.BPE()), None, ["犬"]) == []


@pytest.mark.parametrize("texts", ["a dog", b"a dog", {"a dog": 1}, 3, None])
def test_a_single_text_is_not_taken_for_its_letters(mini: diptych.DualEncoder, texts: object) -> None:
    with pytest.raises(diptych.ConfigError, match=r"not a list; give a list of strings, as \['a dog'\]"):
        mini.encode_texts(texts)  # type: ignore[call-overload]


@pytest.mark.parametrize("images", ["a.png", Path("a.png"), b"png", Image.new("RGB", (8, 8)), 3, None])
def test_a_single_image_or_a_path_is_refused_in_a_sentence(mini: diptych.DualEncoder, images: object) -> None:
    matcher = diptych.load_matcher("mini", device="cpu")
    captioner = diptych.load_captioner("mini", device="cpu")
    prompter = diptych.load_prompter("mini", device="cpu")
    for encode in (
        mini.encode_images,
        mini.preprocess_images,
        matcher.encode_images,
        captioner.caption,
        prompter.predict,
    ):
        with pytest.raises(diptych.ConfigError, match="give a list of PIL images"):
            encode(images)  # type: ignore[operator]
    with pytest.raises(diptych.ConfigError, match="give a list of PIL images"):
        matcher.predict(images, ["a dog"])  # type: ignore[arg-type]
    if not isinstance(images, Image.Image):
        with pytest.raises(diptych.ConfigError):
            mini.similarity(images, ["a dog"])  # type: ignore[arg-type]


def test_paths_in_a_list_are_refused_with_the_function_that_opens_them(mini: diptych.DualEncoder) -> None:
    with pytest.raises(diptych.ConfigError, match="image 0 is a PosixPath; give a PIL image"):
        mini.encode_images([Path("a.png")])  # type: ignore[list-item]
    with pytest.raises(diptych.ConfigError, match="image 0 is a ndarray"):
        mini.encode_images(np.zeros((8, 8, 3), np.uint8))  # type: ignore[call-overload]
