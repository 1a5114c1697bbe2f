"""A text is a text: no model fetches or opens what a string looks like, and an image is never a string."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch.nn import functional

from diptych.captioning.candidates import rank_candidates
from diptych.captioning.captioner import load_captioner
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError
from diptych.images.decode import decode
from diptych.matching.calibration import Calibration
from diptych.matching.heads import CosineHead
from diptych.matching.matcher import Matcher, load_matcher
from diptych.models import dual_encoder as dual
from diptych.models.dual_encoder import DualEncoder
from diptych.models.onnx.engines import GRAPHS
from diptych.models.onnx.exported_tower import ExportedTower, read_front, write_front
from diptych.models.onnx.graphs import Route, tensors_of, write_graph
from diptych.models.onnx.text_graph import keep_text_graph, kept_text_graph
from diptych.prompting.features import ImageFeatures
from diptych.prompting.library import PromptLibrary
from diptych.prompting.text_space import load_text_space
from diptych.search.find_matches import find_matches
from diptych.search.query import Query
from diptych.serving.service import Service
from tests.captioning.test_captioner_models import make_vit_gpt2
from tests.matching.test_blip import blip  # noqa: F401 - a fixture
from tests.models import test_open_clip
from tests.models.test_families import save_clip, save_siglip
from tests.page_models import plain_model
from tests.trap import Trap, trap

pytestmark = pytest.mark.filterwarnings("ignore::diptych.models.truncation.TextCutWarning")


def save_open_clip(folder: Path) -> None:
    test_open_clip.save(folder, test_open_clip.ARCHITECTURES["clip"])


MAKERS: dict[str, Callable[[Path], Any]] = {
    **{"clip": save_clip, "siglip": save_siglip, "open_clip": save_open_clip, "timm and distilbert": plain_model},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp("model") / "made"
        made[name].mkdir()
        torch.manual_seed(0)
        make(made[name])
    return made


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, DualEncoder]:
    return {"mini": dual.load("mini", "cpu"), **{name: dual.load(path, "cpu") for name, path in folders.items()}}


@pytest.fixture(scope="module")
def clip(models: dict[str, DualEncoder]) -> DualEncoder:
    return models["clip"]


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Trap]:
    with trap(tmp_path) as addresses:
        yield addresses


def by_hand(model: DualEncoder, texts: list[str]) -> np.ndarray:
    """Unit vectors of texts by the tower's own tokenizer, called here, and the network: (texts, dim)."""
    trunk: Any = model.route("text")[0]
    if hasattr(trunk, "network"):  # open_clip's
        features = {"input_ids": trunk.tokenizer(texts)}
    else:
        settings: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        if "Siglip" in type(trunk.model).__name__:  # it was trained on lower case, padded, without a mask
            texts = [text.lower() for text in texts]
            settings |= {"padding": "max_length", "return_attention_mask": False}
        features = dict(trunk.tokenizer(texts, **settings))
    features["modality"] = "text"
    with torch.inference_mode():
        return functional.normalize(model.model(features)["sentence_embedding"].float(), dim=-1).numpy()


@pytest.mark.parametrize("name", ["mini", *MAKERS])
def test_a_text_that_leads_to_an_image_has_the_vector_of_its_own_tokens(
    models: dict[str, DualEncoder], name: str, private: Trap
) -> None:
    model, texts = models[name], private.texts
    seen = model.encode_images([private.image])
    private.check(model.encode_texts(texts), by_hand(model, texts), seen)  # a mixed batch
    private.check(np.concatenate([model.encode_texts([text]) for text in texts]), by_hand(model, texts), seen)
    private.check(model.embed(model.preprocess_texts(texts)).detach().numpy(), by_hand(model, texts), seen)


ODD = {
    "empty": "",
    "100 kB": "a dog on a beach " * 6_000,
    "a NUL": "a dog\0and a cat",
    "a chat": '[{"role": "user", "content": "a dog"}]',
    "a dict": '{"image": "/etc/passwd"}',
    "a video": "https://www.youtube.com/watch?v=1",
    "a broken URL": "https://[[dog]].png",
    "a sound": "https://dog.example/bark.mp3",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_texts_have_the_vectors_of_their_tokens_too(models: dict[str, DualEncoder], kind: str) -> None:
    for name in ("clip", "timm and distilbert"):
        embeddings = models[name].encode_texts([ODD[kind], "a red circle"])
        np.testing.assert_allclose(embeddings, by_hand(models[name], [ODD[kind], "a red circle"]), atol=1e-5)


@pytest.mark.parametrize("name", ["mini", *MAKERS])
def test_a_lone_surrogate_counts_as_a_question_mark(models: dict[str, DualEncoder], name: str) -> None:
    broken, plain = models[name].encode_texts(["a dog \ud83d here", "a dog ? here"])
    np.testing.assert_allclose(broken, plain, atol=1e-6)


@pytest.mark.parametrize("odd", [None, 7, b"a dog", ("a dog", "a cat"), {"text": "a dog"}, ["a dog"]], ids=str)
def test_what_is_no_string_is_refused_as_a_text_at_every_door(clip: DualEncoder, odd: Any) -> None:
    matcher = Matcher(clip, CosineHead(), Calibration({"cosine": 12.0}, -4.2), name="cosine")
    image = Image.new("RGB", (40, 40))
    doors: list[Callable[[], Any]] = [
        lambda: clip.encode_texts(["a dog", odd]),
        lambda: matcher.predict([image, image], ["a dog", odd]),
        lambda: matcher.encode_texts(["a dog", odd]),
        lambda: rank_candidates([image], ["a dog", odd], clip),
        lambda: find_matches(clip, odd, None),  # type: ignore[arg-type]
        lambda: Query.of(["a dog", odd]),
        lambda: Query.of("a dog", unwanted=[odd]),
        lambda: Service(clip).embed(texts=["a dog", odd]),
        lambda: Service(clip).match(image, ["a dog", odd]),
    ]
    for door in doors:
        with pytest.raises(ConfigError, match=f"is a {type(odd).__name__}; .* must be a string"):
            door()


def test_one_string_or_a_dict_is_no_list_of_texts(clip: DualEncoder) -> None:
    for odd in ("a dog", {"a dog": 1}, None):
        with pytest.raises(ConfigError, match="give a list of strings"):
            clip.encode_texts(odd)  # type: ignore[arg-type]


def test_an_image_that_is_a_string_is_neither_fetched_nor_opened(
    clip: DualEncoder, private: Trap, tmp_path: Path
) -> None:
    matcher = Matcher(clip, CosineHead(), Calibration({"cosine": 12.0}, -4.2), name="cosine")
    (tmp_path / "captioner").mkdir()
    make_vit_gpt2(tmp_path / "captioner")
    captioner = load_captioner(tmp_path / "captioner", "cpu")
    for odd in (*private.texts, {"image": private.url}, private.path, [private.url]):
        images: list[Any] = [private.image, odd]
        doors: list[Callable[[list[Any]], Any]] = [
            *(clip.encode_images, matcher.encode_images, captioner.caption, ImageFeatures.of_encoder(clip).encode),
            lambda images: matcher.predict(images, ["a dog", "a cat"]),
        ]
        for door in doors:
            with pytest.raises(ConfigError, match=f"image 1 is a {type(odd).__name__}; give a PIL image"):
                door(images)
    assert private.touched == []


def test_a_matcher_judges_such_texts_by_their_words(clip: DualEncoder, private: Trap) -> None:
    matcher = Matcher(clip, CosineHead(), Calibration({"cosine": 12.0}, -4.2), name="cosine")
    texts = private.texts
    probabilities = matcher.predict([private.image] * len(texts), texts)
    cosines = by_hand(clip, texts) @ clip.encode_images([private.image])[0]
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(4.2 - 12 * cosines)), atol=1e-5)
    assert private.touched == []


def test_blip_judges_such_texts_by_their_words(blip: Path, private: Trap) -> None:  # noqa: F811
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model, processor = BlipForImageTextRetrieval.from_pretrained(blip).eval(), AutoProcessor.from_pretrained(blip)
    pixels = processor.image_processor([private.image], return_tensors="pt")["pixel_values"]
    expected = []
    for text in private.texts:
        tokens = processor.tokenizer([text], truncation=True, max_length=32, return_tensors="pt")
        with torch.inference_mode():
            logits = model(pixel_values=pixels, **tokens, use_itm_head=True).itm_score
        expected.append(float(logits.softmax(-1)[0, 1]))
    matcher = load_matcher(blip, device="cpu")
    np.testing.assert_allclose(matcher.predict([private.image] * 4, private.texts), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="text 0 is a tuple"):
        matcher.encode_texts([("a dog", "a cat")])  # type: ignore[list-item]
    assert private.touched == []


def test_candidates_and_templates_are_words(clip: DualEncoder, private: Trap) -> None:
    for templates in (("{}",), ("{}", f"{private.url[:-4]}{{}}.png")):
        ranked = rank_candidates([private.image], private.texts, clip, templates=templates)[0]
        filled = by_hand(clip, [template.replace("{}", text) for text in private.texts for template in templates])
        means = filled.reshape(4, len(templates), -1).mean(1)
        cosines = means / np.linalg.norm(means, axis=1, keepdims=True) @ clip.encode_images([private.image])[0]
        similarities = {template.text: template.similarity for template in ranked}
        assert [similarities[text] for text in private.texts] == pytest.approx(list(cosines), abs=1e-5)
    assert private.touched == []


def test_finding_goes_by_the_words(clip: DualEncoder, private: Trap, scenes: Path) -> None:
    pairs = read_pairs(scenes)[:4]
    for text in private.texts[:3]:
        scores = {match.image_id: match.score for match in find_matches(clip, text, pairs, 4)}
        for row in pairs:
            image = clip.encode_images([decode(row.image, min_side=clip.image_size)])[0]
            assert scores[row.image_id] == pytest.approx(float(by_hand(clip, [text])[0] @ image), abs=1e-5)
    assert private.touched == []


def test_a_text_space_over_a_clip_embeds_words(folders: dict[str, Path], clip: DualEncoder, private: Trap) -> None:
    space = load_text_space(str(folders["clip"]), "cpu")
    expected, seen = by_hand(clip, private.texts), clip.encode_images([private.image])
    private.check(space.encode(private.texts), expected, seen)
    private.check(space.encode_cached(private.texts), expected, seen)
    private.check(PromptLibrary.of(private.texts, space).embeddings, expected, seen)
    for door in (space.encode, space.encode_cached, lambda texts: PromptLibrary.of(texts, space)):
        with pytest.raises(ConfigError, match="text 1 is a dict"):
            door(["a dog", {"image": private.url}])


def test_a_text_encoder_of_word_vectors_still_takes_its_strings(private: Trap, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from diptych.models.towers import learn_tokenizer

    tokenizer = learn_tokenizer(["a red circle", "http private png"]).backend_tokenizer
    plain = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    plain.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    space = load_text_space(str(tmp_path / "static"), "cpu")
    np.testing.assert_allclose(space.encode(private.texts), plain.encode(private.texts, normalize_embeddings=True))
    assert private.touched == []


def test_an_exported_tower_and_a_kept_graph_read_words(
    models: dict[str, DualEncoder], private: Trap, tmp_path: Path
) -> None:
    model, texts = models["timm and distilbert"], private.texts
    write_front(model.route("text")[0], tmp_path)
    tensors = tensors_of(model.preprocess_texts(texts))
    write_graph(Route(model.route("text"), list(tensors), "text"), tensors, tmp_path / GRAPHS["onnx"])
    tower = ExportedTower(tmp_path, read_front(tmp_path, "text"), "text", "onnx", list(tensors), model.dim)
    router = Router({"image": model.route("image"), "text": [tower]}, default_route="text")
    exported = DualEncoder(SentenceTransformer(modules=[router], device="cpu"))
    expected, seen = by_hand(model, texts), model.encode_images([private.image])
    private.check(exported.encode_texts(texts), expected, seen, atol=1e-4)
    assert keep_text_graph(exported, "of-the-trap")
    kept: Any = kept_text_graph("of-the-trap")
    private.check(kept.encode_texts(texts), expected, seen, atol=1e-4)
    np.testing.assert_allclose(*kept.encode_texts(["a \ud83d dog", "a ? dog"]), atol=1e-6)
    with pytest.raises(ConfigError, match="text 0 is a dict"):
        kept.encode_texts([{"image": private.url}])
