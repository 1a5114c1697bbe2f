"""Prompters: training, saving and loading, and the three methods of producing prompts."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import diptych
from diptych.cli import main
from diptych.data.samples.prompts import draw_prompts
from diptych.errors import ConfigError, DataError, ModelError
from diptych.evaluation.prompts import MEAN, NEIGHBOUR, OTHERS, evaluate_prompter, nearest_rows
from diptych.images.decode import decode
from diptych.prompting.features import ImageFeatures
from diptych.prompting.library import Prompt, read_prompts
from diptych.prompting.phrases.compose import LISTS, compose, phrase_lists
from diptych.prompting.prompter import Prompter, PromptHead, load_prompter
from diptych.prompting.storage import WEIGHTS, save_prompter
from diptych.prompting.text_space import TextSpace, load_text_space
from diptych.training.objectives import cosine_loss
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 synthetic images with one prompt each."""
    return draw_prompts(tmp_path_factory.mktemp("prompts"), count=48, size=48)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A tiny, randomly initialised text encoder in the sentence-transformers format."""
    from sentence_transformers import SentenceTransformer

    from diptych.models.towers import text_tower

    torch.manual_seed(0)
    size = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    captions = diptych.read_pairs(drawn).flat_captions()[0]
    tower = text_tower("distilbert", pretrained=False, arguments=size, captions=captions)
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=tower, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def dual_folder(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A tiny, randomly initialised dual encoder."""
    size = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    captions = diptych.read_pairs(drawn).flat_captions()[0]
    options: dict[str, Any] = {"image_size": 32, "dim": 16, "projection": "mlp", "pretrained": False, "device": "cpu"}
    folder = tmp_path_factory.mktemp("dual")
    diptych.build("timm/test_resnet", "distilbert", text_arguments=size, captions=captions, **options).save(folder)
    return folder


@pytest.fixture(scope="module")
def settings(drawn: Path, encoder_folder: Path) -> dict[str, Any]:
    """Recipe settings that train on the synthetic images in a second."""
    return {
        "data": str(drawn),
        "image_tower": "timm/test_resnet",
        "pretrained": False,
        "image_size": 32,
        "text_encoder": str(encoder_folder),
        "val_fraction": 0.25,
        "hidden": 24,
        "epochs": 6,
        "batch_size": 8,
        "lr": 1e-2,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> Path:
    """A trained run."""
    out = tmp_path_factory.mktemp("runs") / "prompt"
    train_prompter(PromptRecipe(**settings, out=str(out)))
    return out


@pytest.fixture(scope="module")
def prompter(run: Path) -> Prompter:
    return load_prompter(run, "cpu")


@pytest.fixture(scope="module")
def images(drawn: Path) -> list[Image.Image]:
    return [decode(row.image) for row in list(diptych.read_pairs(drawn))[:3]]


class FixedCaptioner:
    """A captioner that returns the same captions for every image."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def caption(self, images: Sequence[Image.Image], *, count: int = 1) -> list[list[Any]]:
        return [[Prompt(text, 0.0) for text in self.texts[:count]] for _ in images]


# synthetic prompts


def test_drawn_prompts_hold_commas_quotes_and_newlines_and_are_read_back(drawn: Path) -> None:
    pairs = diptych.read_pairs(drawn)
    texts = [row.captions[0] for row in pairs]
    assert len(pairs) == 48
    assert all(len(row.captions) == 1 and Path(row.image).is_file() for row in pairs)  # type: ignore[arg-type]
    assert all("." not in row.image_id for row in pairs)
    assert any('"' in text for text in texts)
    assert any("\n" in text for text in texts)
    assert all("," in text for text in texts[1::4])


def test_ids_may_include_the_file_suffix(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "images", tmp_path / "images")
    lines = (drawn / "prompts.csv").read_text().replace("\nscene", "\r\nscene")
    rows = list(csv.reader(lines.splitlines(keepends=True)))
    with (tmp_path / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([f"{name}.png", text] for name, text in rows[1:])])
    assert [r.image.name for r in diptych.read_pairs(tmp_path)] == [  # type: ignore[union-attr]
        r.image.name
        for r in diptych.read_pairs(drawn)  # type: ignore[union-attr]
    ]


def test_drawn_prompts_do_not_overwrite_others(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("imgId,prompt\nmine,a cat\n")
    with pytest.raises(DataError, match="did not write"):
        draw_prompts(tmp_path, count=2)
    with pytest.raises(ConfigError, match="count is 0"):
        draw_prompts(tmp_path / "new", count=0)


# the text encoder's space


def test_cached_embeddings_equal_those_of_the_encoder(encoder_folder: Path) -> None:
    space = load_text_space(str(encoder_folder), "cpu")
    texts = ["a red star", "a blue fish above a tree", "a red star"]
    cached = space.encode_cached(texts)
    np.testing.assert_allclose(cached, space.encode(texts), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(cached, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(space.encode_cached(texts), cached)


def test_phrases_are_embedded_once_per_content_and_encoder(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_text_space(str(encoder_folder), "cpu")
    kept = space.encode_cached(["oil painting", "at night"])
    monkeypatch.setattr(TextSpace, "encode", lambda *_: pytest.fail("embedded again"))
    np.testing.assert_array_equal(space.encode_cached(["at night", "oil painting"]), kept[::-1])
    with pytest.raises(pytest.fail.Exception, match="embedded again"):
        space.encode_cached(["oil painting", "at noon"])


def test_a_bert_without_sentence_transformers_files_gets_mean_pooling(encoder_folder: Path, tmp_path: Path) -> None:
    for file in (*encoder_folder.glob("*.safetensors"), encoder_folder / "config.json", *encoder_folder.glob("tok*")):
        shutil.copy(file, tmp_path)
    bare = load_text_space(str(tmp_path), "cpu")
    whole = load_text_space(str(encoder_folder), "cpu")
    np.testing.assert_allclose(bare.encode(["a red star"]), whole.encode(["a red star"]), atol=1e-5)


def test_the_default_space_is_minilm() -> None:
    space = load_text_space(device="cpu")
    cat, kitten, car = space.encode(["a cat", "a kitten", "a car"])
    assert space.dim == 384
    assert cat @ kitten > cat @ car + 0.2


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model"):
        load_text_space(str(tmp_path), "cpu")
    with pytest.raises(ModelError, match="no tower is called 'pypi/minilm'"):
        load_text_space("pypi/minilm", "cpu")


# image features


def test_features_of_a_dual_encoder_are_tower_features_and_the_embedding(
    dual_folder: Path, images: list[Image.Image]
) -> None:
    encoder = diptych.load(dual_folder, "cpu")
    pictures = ImageFeatures.of_encoder(encoder)
    alone = ImageFeatures.of_tower(encoder.tower("image"), "cpu")
    features = pictures.encode(images)
    assert pictures.width == features.shape[1] == alone.width + 16
    np.testing.assert_allclose(features[:, : alone.width], alone.encode(images), atol=1e-5)
    np.testing.assert_allclose(features[:, alone.width :], encoder.encode_images(images), atol=1e-5)


def test_stored_features_equal_those_of_the_images(prompter: Prompter, drawn: Path, images: list[Image.Image]) -> None:
    stored = prompter.image_features.cached(diptych.read_pairs(drawn))
    assert stored.shape == (48, 1, prompter.image_features.width)
    np.testing.assert_allclose(stored[:3, 0], prompter.image_features.encode(images), atol=5e-3)


def test_a_picture_that_cannot_be_decoded_is_named(prompter: Prompter, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "set")
    broken = sorted((tmp_path / "set" / "images").iterdir())[5]
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=broken.stem):
        prompter.image_features.cached(diptych.read_pairs(tmp_path / "set"))


# training


def test_the_cosine_loss_is_one_minus_the_mean_cosine() -> None:
    predicted, targets = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert cosine_loss(predicted, targets).item() == pytest.approx(1 - (0.96 - 1) / 2)
    with pytest.raises(ValueError, match="both"):
        cosine_loss(predicted, targets[:1])


def test_the_head_standardises_features_and_gives_unit_vectors() -> None:
    head = PromptHead(4, 3, hidden=5).eval()
    features = np.random.default_rng(0).normal(7, 3, (50, 4))
    head.fit(features)
    out = head(torch.from_numpy(features.astype(np.float32)))
    assert torch.allclose(out.norm(dim=1), torch.ones(50), atol=1e-5)
    np.testing.assert_allclose(head.mean, features.mean(0), rtol=1e-5)


def test_training_increases_the_cosine_with_the_prompts(run: Path) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    cosines = [line["cosine"] for line in log if "cosine" in line]
    assert cosines[-1] > cosines[0] + 5
    assert max(cosines) > 50


def test_a_saved_prompter_loads_unchanged_and_can_be_moved(
    run: Path, prompter: Prompter, images: list[Image.Image], tmp_path: Path
) -> None:
    shutil.copytree(run / "model", tmp_path / "moved")
    moved = load_prompter(tmp_path / "moved", "cpu")
    np.testing.assert_array_equal(moved.predict(images), prompter.predict(images))
    assert moved.space.name == str(tmp_path / "moved" / "text_encoder")
    assert moved.library.texts == prompter.library.texts
    assert {file.suffix for file in (run / "model").rglob("*") if file.is_file()} <= {".json", ".safetensors"}


def test_a_resumed_run_equals_an_uninterrupted_one(
    settings: dict[str, Any], run: Path, tmp_path: Path, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.training.trainer import Trainer

    recipe = PromptRecipe(**{**settings, "save_steps": 2}, out=str(tmp_path / "run"))
    whole = Trainer._update_average

    def cut(trainer: Trainer) -> None:
        whole(trainer)
        if trainer.step == 11:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update_average", cut)
        with pytest.raises(KeyboardInterrupt):
            train_prompter(recipe)
    with pytest.raises(ConfigError, match="already holds a run"):
        train_prompter(recipe)
    resumed = train_prompter(recipe, resume=True)
    first, other = (load_file(folder / WEIGHTS) for folder in (run / "model", resumed.model))
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_train_tower_also_trains_the_image_tower(settings: dict[str, Any], tmp_path: Path) -> None:
    options = {**settings, "train_tower": True, "epochs": 2, "augment": "light", "target": "each", "contrast": 0.2}
    result = train_prompter(PromptRecipe(**options, out=str(tmp_path / "run"), library=0))
    trained = load_prompter(result.model, "cpu")
    fresh = ImageFeatures.of_tower(_tower(settings), "cpu")
    assert trained.image_features.fingerprint() != fresh.fingerprint()
    assert not trained.has_library


def _tower(settings: dict[str, Any]) -> list:
    from diptych.models.towers import image_tower

    torch.manual_seed(0)
    return image_tower(settings["image_tower"], pretrained=False, image_size=32)


def test_training_on_stored_augmented_views_runs(settings: dict[str, Any], tmp_path: Path) -> None:
    options = {**settings, "augment": "light", "views": 2, "epochs": 1}
    assert train_prompter(PromptRecipe(**options, out=str(tmp_path / "run"))).outcome.steps > 0


def test_a_prompter_trained_on_a_dual_encoder_leaves_its_embeddings_unchanged(
    settings: dict[str, Any], dual_folder: Path, tmp_path: Path, images: list[Image.Image]
) -> None:
    options = {**settings, "model": str(dual_folder), "epochs": 1, "library": 5}
    result = train_prompter(PromptRecipe(**options, out=str(tmp_path / "run")))
    again = diptych.load(result.model, "cpu")
    np.testing.assert_allclose(
        again.encode_images(images), diptych.load(dual_folder, "cpu").encode_images(images), atol=1e-5
    )
    assert len(load_prompter(result.model, "cpu").library.texts) == 5


def test_contradictory_settings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    for wrong, words in (
        ({"data": ""}, "no data set"),
        ({"augment": "light"}, "computed once"),
        ({"batch_size": 1}, "batch_size"),
        ({"train_tower": True, "model": "mini"}, "set only one of them"),
    ):
        with pytest.raises(ConfigError, match=words):
            train_prompter(PromptRecipe(**{**settings, **wrong, "out": str(tmp_path / "run")}))


def test_the_error_for_an_unavailable_tower_names_the_bundled_one(settings: dict[str, Any], tmp_path: Path) -> None:
    options = {**settings, "image_tower": "timm/resnet-of-nobody", "pretrained": True}
    with pytest.raises(ModelError, match=r"cannot load tower 'timm/resnet-of-nobody'.*set `model` to mini"):
        train_prompter(PromptRecipe(**options, out=str(tmp_path / "run")))


def test_a_model_without_a_prompter_is_refused_with_the_next_step(run: Path, dual_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no prompter; train one on it: diptych train prompt --model"):
        load_prompter(dual_folder, "cpu")
    shutil.copytree(run / "model", tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot load prompter"):
        load_prompter(tmp_path / "cut", "cpu")


def test_a_changed_text_encoder_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    card = json.loads((tmp_path / "model" / "diptych.json").read_text())
    card["prompter"]["text_encoder"]["identity"] = "0" * 16
    (tmp_path / "model" / "diptych.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="gives other embeddings"):
        _ = load_prompter(tmp_path / "model", "cpu").space


def test_half_precision_changes_the_embeddings_little(
    prompter: Prompter, images: list[Image.Image], tmp_path: Path
) -> None:
    save_prompter(prompter, tmp_path, half=True)
    cosines = np.sum(load_prompter(tmp_path, "cpu").predict(images) * prompter.predict(images), axis=1)
    assert cosines.min() > 0.9999


# prompts


def test_retrieving_finds_the_nearest_prompts_of_the_library(prompter: Prompter, images: list[Image.Image]) -> None:
    results = prompter.prompt(images, k=4)
    predicted = prompter.predict(images)
    for row, prompts in enumerate(results):
        cosines = prompter.library.embeddings @ predicted[row]
        order = np.argsort(-cosines)[:4]
        assert [prompt.text for prompt in prompts] == [prompter.library.texts[index] for index in order]
        np.testing.assert_allclose([prompt.score for prompt in prompts], cosines[order], atol=1e-5)


def test_a_custom_library_replaces_the_stored_one(prompter: Prompter, images: list[Image.Image]) -> None:
    results = prompter.prompt(images, library=["a red star", "a blue boat", "a red star"], k=9)
    assert [sorted(prompt.text for prompt in prompts) for prompts in results] == [["a blue boat", "a red star"]] * 3


def test_a_composed_prompt_starts_with_the_caption_and_scores_at_least_as_high(
    prompter: Prompter, images: list[Image.Image]
) -> None:
    alone = prompter.prompt(images, how="generate", captioner=FixedCaptioner("a red star"))
    composed = prompter.prompt(images, how="compose", captioner=FixedCaptioner("a red star"))
    for before, after in zip(alone, composed, strict=True):
        assert after[0].text.startswith("a red star")
        assert after[0].score >= before[0].score - 1e-6
        vector = prompter.space.encode([after[0].text])[0]
        np.testing.assert_allclose(vector @ prompter.predict(images)[composed.index(after)], after[0].score, atol=1e-4)


def test_composition_equals_an_exhaustive_greedy_search(encoder_folder: Path) -> None:
    space = load_text_space(str(encoder_folder), "cpu")
    lists = {"subject": ["a star", "a boat"], "light": ["at night", "at sunset"], "medium": ["a print"]}
    wanted = space.encode(["a boat, at sunset, a print"])
    results = compose(wanted, [""], space, lists)[0]
    assert results.text == _greedily(wanted[0], space, lists)
    assert sum(phrase in results.text for phrase in lists["light"]) <= 1


def _greedily(wanted: np.ndarray, space: TextSpace, lists: dict[str, list[str]]) -> str:
    """The slow reference: tries every phrase of every unused list in the prompt."""
    text = max(lists["subject"], key=lambda phrase: float(space.encode([phrase])[0] @ wanted))
    left, score = {name: phrases for name, phrases in lists.items() if name != "subject"}, 0.0
    score = float(space.encode([text])[0] @ wanted)
    while left:
        tries = {(name, f"{text}, {phrase}") for name, phrases in left.items() for phrase in phrases}
        name, best = max(tries, key=lambda pair: float(space.encode([pair[1]])[0] @ wanted))
        gained = float(space.encode([best])[0] @ wanted)
        if gained <= score + 1e-4:
            break
        text, score = best, gained
        del left[name]
    return text


def test_generated_prompts_are_ordered_by_score(prompter: Prompter, images: list[Image.Image]) -> None:
    results = prompter.prompt(
        images, how="generate", k=3, captioner=FixedCaptioner("a star", "a blue boat", "a tree at night")
    )
    for prompts in results:
        assert len(prompts) == 3
        assert [p.score for p in prompts] == sorted((p.score for p in prompts), reverse=True)


def test_without_a_captioner_compose_works_and_generate_fails(prompter: Prompter, images: list[Image.Image]) -> None:
    subjects = phrase_lists()["subject"]
    assert any(prompter.prompt(images[:1], how="compose")[0][0].text.startswith(subject) for subject in subjects)
    with pytest.raises(ModelError, match="has no captioner"):
        prompter.prompt(images, how="generate")


def test_invalid_options_are_refused(prompter: Prompter, images: list[Image.Image]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'compose'"):
        prompter.prompt(images, how="composed")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="k is 0"):
        prompter.prompt(images, k=0)
    with pytest.raises(DataError, match="library is empty"):
        prompter.prompt(images, library=["", " "])
    assert prompter.prompt([]) == []


def test_the_built_in_lists_contain_distinct_phrases() -> None:
    lists = phrase_lists()
    assert tuple(lists) == LISTS
    for phrases in lists.values():
        assert len(phrases) >= 30
        assert len(set(phrases)) == len(phrases)
        assert all(phrase == phrase.strip() and "," not in phrase for phrase in phrases)


def test_custom_phrase_lists_are_read_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mood.txt").write_text("# moods\ncalm\n\nwild\n", "utf-8-sig")
    assert phrase_lists(tmp_path) == {"mood": ["calm", "wild"]}
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match=r"'none\.txt' is empty"):
        phrase_lists(tmp_path)
    with pytest.raises(DataError, match=r"there are no \.txt files"):
        phrase_lists(tmp_path / "absent")


def test_prompts_are_read_from_lines_tables_and_data_sets(drawn: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# mine\na cat, sleeping\n\na dog\n")
    (tmp_path / "b.csv").write_text('id,prompt\n1,"a cat, ""big"""\n2,\n3,a dog\n')
    assert read_prompts(tmp_path / "a.txt") == ["a cat, sleeping", "a dog"]
    assert read_prompts(tmp_path / "b.csv") == ['a cat, "big"', "a dog"]
    assert read_prompts(drawn) == read_prompts(drawn / "prompts.csv")
    assert len(read_prompts(scenes / "captions.txt")) == 48 * 5
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no prompt column: it has a, b"):
        read_prompts(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("\n")
    with pytest.raises(DataError, match="contains no prompts"):
        read_prompts(tmp_path / "d.txt")


# evaluation


def test_the_report_compares_the_prompter_with_the_baselines(prompter: Prompter, scenes: Path) -> None:
    pairs = diptych.read_pairs(scenes).with_splits(val=0.3, test=0)
    report, _ = evaluate_prompter(prompter, pairs.split("val"), pairs.split("train"))
    assert {"prompter", "generated prompt", MEAN, NEIGHBOUR, OTHERS} <= report.scores.keys()
    assert report.scores[MEAN].normalised == pytest.approx(0)
    assert len(report.lines()) == 5 * len(pairs.split("val"))
    assert report.cosines.mean() == pytest.approx(report.scores["prompter"].mean)


def test_the_nearest_image_is_found_by_cosine() -> None:
    known = np.array([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    assert nearest_rows(np.array([[9.0, 1.0], [0.1, 0.8], [2.0, 1.9]]), known).tolist() == [0, 1, 2]


# the bundled prompter


def test_minis_prompter_is_small_and_recognises_photographs(tmp_path: Path) -> None:
    from diptych.data.samples.library import photographs
    from diptych.models.checkpoints import BUNDLED

    assert (BUNDLED / "mini" / WEIGHTS).stat().st_size < 2e6
    mini = load_prompter("mini", "cpu")
    assert not mini.has_library  # the captions that it was trained on are not the project's to give away
    pairs = photographs(tmp_path)
    known = {row.captions[0]: decode(row.image) for row in pairs}
    queries = ["a cat", "a red motorcycle", "a man with a camera on a tripod"]
    results = mini.prompt([known[text] for text in queries], library=list(known))
    assert [prompts[0].text for prompts in results] == queries


# the command line


def run_command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_the_commands_train_evaluate_and_prompt(
    settings: dict[str, Any], tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("data", "make-prompts", tmp_path / "set", "--count", 24, "--size", 32) == 0
    flags = [
        f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if key not in ("data", "pretrained")
    ]
    out = tmp_path / "run"
    assert run_command("train", "prompt", "--data", drawn, "--out", out, "--no-pretrained", *flags) == 0
    results, histogram = tmp_path / "test_results.csv", tmp_path / "cosines.png"
    options = ["--data", drawn, "--split", "val", "--results", results, "--histogram", histogram, "--device", "cpu"]
    capsys.readouterr()
    assert run_command("eval", "prompt", out, *options) == 0
    output = capsys.readouterr().out
    assert "mean embedding" in output
    assert "cannot be compared" in output
    with results.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["imgId", "prompt", "predicted", "cosine"]
    assert Image.open(histogram).size[0] > 500
    (drawn / "images" / "broken.png").write_bytes(b"x")
    strange = drawn / "images" / os.fsdecode(b"\xff.png")
    shutil.copy(next((drawn / "images").glob("scene-*.png")), strange)
    options = ["--model", out, "--out", tmp_path / "prompts.csv", "--device", "cpu", "--count", 2]
    assert run_command("prompt", drawn / "images", *options) == 0
    (drawn / "images" / "broken.png").unlink()
    strange.unlink()
    assert "1 of 50 images have no prompt: undecodable 1" in capsys.readouterr().err
    with (tmp_path / "prompts.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 49
    assert run_command("prompt", next((drawn / "images").iterdir()), "--model", out, "--how", "compose") == 0


def test_score_compares_several_image_generators(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(diptych.read_pairs(scenes))[:8]
    for name, shift in (("right.csv", 0), ("wrong.csv", 3)):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "prompt"))
            writer.writerows(
                (f"images/{row.image_id}", rows[(index + shift) % 8].captions[0]) for index, row in enumerate(rows)
            )
            writer.writerow(("images/none.jpg", "a red star"))
    shutil.copytree(scenes / "images", tmp_path / "images")
    out = tmp_path / "scores.csv"
    assert run_command("score", tmp_path / "right.csv", tmp_path / "wrong.csv", "--out", out, "--device", "cpu") == 0
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 18
    assert [line["score"] for line in lines if "none" in line["image"]] == ["", ""]
    assert all(0 <= float(line["score"]) <= 2.5 for line in lines if line["score"])
    assert "CLIPScore by mini" in capsys.readouterr().out


def test_commands_with_missing_inputs_fail_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("score") == 1
    assert run_command("prompt", tmp_path / "nothing.jpg") == 1
    assert run_command("prompt", tmp_path) == 1
    errors = capsys.readouterr().err
    assert "no table given" in errors
    assert "check the path" in errors
    assert "contains no images" in errors
    assert run_command("data", "get") == 0
    assert "diffusiondb" in capsys.readouterr().out
