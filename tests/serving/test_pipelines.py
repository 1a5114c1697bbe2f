"""diptych's models in transformers' pipelines, and the image-to-text pipeline that transformers 5 removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

import diptych
from diptych.captioning.captioner import load_captioner
from diptych.errors import ConfigError, ModelError
from diptych.serving.pipelines.factory import pipeline, register
from tests.captioning.test_captioner_models import make_blip, make_vit_gpt2
from tests.models.test_families import save_clip, save_siglip

LABELS = ["a red circle", "a blue square", "sun"]


def images(count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * n, 50, 3), dtype=np.uint8)) for n in range(count)]


def made(make: Callable[[Path], None], folder: Path) -> Path:
    folder.mkdir()
    make(folder)
    return folder


def test_zero_shot_classification_with_clip_equals_transformers(tmp_path: Path) -> None:
    folder = made(save_clip, tmp_path / "clip")
    theirs = transformers.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    ours = pipeline("zero-shot-image-classification", folder, "cpu")
    for image in images():
        expected = theirs(image, candidate_labels=LABELS, hypothesis_template="{}")
        answers = ours(image, candidate_labels=LABELS, hypothesis_template="{}")
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
        assert [answer["score"] for answer in answers] == pytest.approx(
            [answer["score"] for answer in expected], abs=1e-4
        )


def test_the_labels_of_a_siglip_have_independent_probabilities(tmp_path: Path) -> None:
    folder = made(save_siglip, tmp_path / "siglip")
    whole = transformers.SiglipModel.from_pretrained(folder)
    whole.logit_bias.data.fill_(-2.0)  # a trained one's is about -16
    whole.save_pretrained(folder)
    answers = pipeline("zero-shot-image-classification", folder, "cpu")(images(1)[0], candidate_labels=LABELS)
    model = diptych.load(folder, "cpu")
    cosines = model.encode_images(images(1)) @ model.encode_texts([f"This is a photo of {x}." for x in LABELS]).T
    logits = cosines[0] * model.logit_scale + model.logit_bias
    by_label = {answer["label"]: answer["score"] for answer in answers}
    assert [by_label[label] for label in LABELS] == pytest.approx(list(1 / (1 + np.exp(-logits))), abs=1e-5)


def test_mini_classifies_and_extracts_embeddings_of_one_image_or_several(tmp_path: Path) -> None:
    model = diptych.load("mini", "cpu")
    classify = pipeline("zero-shot-image-classification", "mini", "cpu")
    assert isinstance(classify, transformers.ZeroShotImageClassificationPipeline)
    answers = classify(images(), candidate_labels=LABELS)
    assert len(answers) == 2
    assert all(sum(label["score"] for label in answer) == pytest.approx(1) for answer in answers)
    extract = pipeline("image-feature-extraction", "mini", "cpu")
    assert isinstance(extract, transformers.ImageFeatureExtractionPipeline)
    images(1)[0].save(tmp_path / "picture.png")
    np.testing.assert_allclose(extract(str(tmp_path / "picture.png")), model.encode_images(images(1)), atol=1e-5)
    np.testing.assert_allclose(extract(images(1)[0], pool=True), model.encode_images(images(1)), atol=1e-5)


@pytest.fixture(scope="module")
def vit_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(make_vit_gpt2, tmp_path_factory.mktemp("captioners") / "vit-gpt2")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(make_blip, tmp_path_factory.mktemp("captioners") / "blip")


def test_image_captioning_answers_as_the_removed_pipeline_did(vit_gpt2: Path) -> None:
    register()
    caption = transformers.pipeline("image-captioning", model=str(vit_gpt2), device="cpu")
    one = caption(images(1)[0], max_new_tokens=5)
    assert [list(answer) for answer in one] == [["generated_text"]]
    several = caption(images(), generate_kwargs={"max_new_tokens": 5})
    assert several[0] == one
    assert len(several) == 2
    model, processor = caption.model, caption.image_processor
    tokens = model.generate(processor(images(1)[0], return_tensors="pt")["pixel_values"], max_new_tokens=5)
    assert one[0]["generated_text"] == caption.tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert (
        len(caption(images(1)[0], generate_kwargs={"num_beams": 3, "num_return_sequences": 3}, max_new_tokens=5)) == 3
    )
    with pytest.raises(ValueError, match="give it once"):
        caption(images(1)[0], max_new_tokens=5, generate_kwargs={"max_new_tokens": 6})
    with pytest.raises(ValueError, match="takes no prompt"):
        caption(images(1)[0], prompt="a")


def test_a_prompt_begins_a_blips_caption(blip: Path) -> None:
    register()
    caption = transformers.pipeline("image-captioning", model=str(blip), device="cpu")
    assert caption(images(1)[0], prompt="a dog", max_new_tokens=4)[0]["generated_text"].startswith("a dog")


@pytest.mark.parametrize("which", ["vit_gpt2", "blip"])
def test_every_captioner_works_in_the_image_to_text_pipeline(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    caption, captioner = pipeline("image-to-text", folder, "cpu"), load_captioner(folder, "cpu")
    for image, written in zip(images(), captioner.caption(images(), max_tokens=6), strict=True):
        assert caption(image, max_new_tokens=6) == [{"generated_text": written[0].text}]
    greedy = captioner.caption(images(1), method="greedy", prefix="a dog", max_tokens=6)[0][0].text
    captions = caption(images(1)[0], prompt="a dog", generate_kwargs={"num_beams": 1, "max_new_tokens": 6})
    assert captions == [{"generated_text": greedy}]
    assert len(caption(images(1)[0], generate_kwargs={"num_return_sequences": 2})) == 2
    with pytest.raises(ConfigError, match="did you mean 'num_beams'"):
        caption(images(1)[0], generate_kwargs={"num_beam": 2})


def test_image_text_to_text_is_transformers_own_for_models_of_that_architecture(blip: Path) -> None:
    talk = pipeline("image-text-to-text", blip, "cpu")
    assert isinstance(talk, transformers.ImageTextToTextPipeline)
    answer = talk(images=images(1)[0], text="a dog", max_new_tokens=4)
    assert answer[0]["generated_text"].startswith("a dog")
    with pytest.raises(ConfigError, match="use the task image-to-text"):
        pipeline("image-text-to-text", "mini", "cpu")


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'image-to-text'"):
        pipeline("image2text", "mini")


def test_a_model_that_transformers_cannot_load_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing-of-the-kind"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot load from the checkpoint alone"):
        pipeline("image-text-to-text", tmp_path, "cpu")
