from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from diptych.data.classes import Classes, classes_in, read_class_folders
from diptych.data.pairs import Pairs, Row
from diptych.errors import ConfigError, DataError
from diptych.evaluation.evaluators import evaluate_zeroshot
from diptych.evaluation.image_classifier import METHODS, ImageClassifier, best_method, class_gallery
from diptych.models import builder
from diptych.models import dual_encoder as dual
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.reports.gallery import html_page
from tests.evaluation.test_compare import run  # noqa: F401 - a fixture

# ruff: noqa: F811 - the fixture

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 40, 220)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of each of three colours, in class folders."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(8):
            pixels = np.clip(np.array(colour) + random.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, which separates colours by examples but not by their names."""
    torch.manual_seed(0)
    model = builder.build(
        "timm/test_resnet",
        "distilbert",
        pretrained=False,
        captions=["a photo of a red green blue."],
        text_arguments={"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        dim=16,
        image_size=32,
        device="cpu",
    )
    model.save(tmp_path_factory.mktemp("model"))
    return Path(tmp_path_factory.getbasetemp()) / "model0"


@pytest.fixture(scope="module")
def classifier(folder: Path, colours: Path) -> ImageClassifier:
    return ImageClassifier(dual.load(folder, "cpu"), classes_in(read_class_folders(colours)), prompts="one")


def test_zero_shot_scores_are_those_of_the_evaluator(classifier: ImageClassifier, colours: Path) -> None:
    labelled = read_class_folders(colours)
    scores = classifier.cross_validate(labelled, methods=["zero-shot"])[0]
    expected, _ = evaluate_zeroshot(classifier.model, labelled, prompts="one")
    assert scores.top1 == pytest.approx(expected.accuracy[1])
    assert scores.mean_per_class == pytest.approx(expected.mean_per_class)
    assert scores.low <= scores.top1 <= scores.high


def test_examples_separate_classes_that_names_do_not(classifier: ImageClassifier, colours: Path) -> None:
    scores = classifier.cross_validate(read_class_folders(colours), shots=(1,))
    by = {(score.method, score.shots): score for score in scores}
    assert set(by) == {*((method, None) for method in METHODS), ("adapter", 1), ("probe", 1)}
    assert by["probe", None].top1 > by["zero-shot", None].top1
    assert by["adapter", None].top1 > by["zero-shot", None].top1
    assert best_method(scores) in ("probe", "adapter")


def test_an_image_that_does_not_decode_has_no_class_and_the_others_have(
    classifier: ImageClassifier, colours: Path, tmp_path: Path
) -> None:
    shutil.copy(colours / "red" / "0.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    pairs = Pairs.from_rows(Row(name, tmp_path / name, ()) for name in ("bad.png", "good.png"))
    bad, good = classifier.fit().classify(pairs, k=2)
    assert bad.names == ()
    assert len(good.names) == 2
    assert good.probabilities[0] >= good.probabilities[1]
    gallery = class_gallery([bad, good], classifier.classes)
    assert [len(section.cards) for section in gallery.sections] == [1]
    assert good.names[0] in html_page(gallery)


def test_an_unknown_method_and_missing_examples_are_refused(classifier: ImageClassifier) -> None:
    with pytest.raises(ConfigError, match="did you mean 'adapter'"):
        clone(classifier).set_params(method="adaptor").fit()
    with pytest.raises(ConfigError, match="labelled images"):
        clone(classifier).set_params(method="probe").fit()


@pytest.mark.parametrize("method", METHODS)
def test_it_follows_scikit_learns_protocol(classifier: ImageClassifier, colours: Path, method: str) -> None:
    labelled = read_class_folders(colours)
    fitted = clone(classifier).set_params(method=method).fit(labelled)
    assert fitted.classes_.tolist() == ["blue", "green", "red"]
    probabilities = fitted.predict_proba(labelled)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    labels = fitted.predict(labelled)
    assert labels.tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    assert fitted.score(labelled, fitted.classes_of(labelled)) == pytest.approx(
        np.mean(labels == [captions[0] for captions in labelled.table.column("captions").to_pylist()])
    )


def test_embeddings_and_a_data_set_are_the_same_to_it(classifier: ImageClassifier, colours: Path) -> None:
    labelled = read_class_folders(colours)
    embeddings = np.asarray(dataset_image_embeddings(classifier.model, labelled))
    probe = clone(classifier).set_params(method="probe")
    by_pairs = probe.fit(labelled).predict_proba(labelled)
    by_arrays = probe.fit(embeddings, classifier.classes_of(labelled)).predict_proba(embeddings)
    np.testing.assert_array_equal(by_pairs, by_arrays)


def test_a_clone_is_unfitted_and_shares_the_model(classifier: ImageClassifier, colours: Path) -> None:
    copy = clone(classifier.fit())
    assert copy.model is classifier.model
    assert copy.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(read_class_folders(colours))


def test_other_prompts_embed_the_class_names_again(classifier: ImageClassifier) -> None:
    copy = clone(classifier)
    seven = clone(classifier).set_params(prompts="seven")
    before = copy.class_embeddings
    assert copy.class_embeddings is before
    np.testing.assert_array_equal(copy.set_params(prompts="seven").class_embeddings, seven.class_embeddings)
    assert not np.allclose(before, seven.class_embeddings)


def test_an_image_that_does_not_decode_has_no_probabilities_and_no_label(
    classifier: ImageClassifier, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    pairs = Pairs.from_rows([Row("bad.png", tmp_path / "bad.png", ())])
    assert np.isnan(classifier.fit().predict_proba(pairs)).all()
    with pytest.raises(DataError, match="1 of 1 images cannot be decoded"):
        classifier.predict(pairs)


def test_labels_and_names_of_classes_may_differ(folder: Path, colours: Path) -> None:
    classes = Classes(("blue", "green", "red"), ("a blue wall", "a green wall", "a red wall"))
    classifier = ImageClassifier(dual.load(folder, "cpu"), classes, prompts="one")
    assert classifier.cross_validate(read_class_folders(colours), methods=["probe"])[0].top1 > 60


def test_the_command_measures_the_methods_on_class_folders(
    run: Callable[..., str], folder: Path, colours: Path
) -> None:
    scores = json.loads(run("classify", colours, "--model", folder, "--prompts", "one", "--shots", 1, 2, "--json"))
    assert [(score["method"], score["shots"]) for score in scores] == [
        *((method, None) for method in METHODS),
        *((method, shots) for shots in (1, 2) for method in ("adapter", "probe")),
    ]


def test_the_command_classifies_a_folder_by_examples(
    run: Callable[..., str], folder: Path, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    for name in COLOURS:
        shutil.copy(colours / name / "0.png", tmp_path / "new" / f"{name}.png")
    table, page = tmp_path / "classes.csv", tmp_path / "classes.html"
    words = ["classify", tmp_path / "new", "--examples", colours, "--model", folder, "--prompts", "one"]
    assert "classified by" in run(*words, "--table", table, "--output", page)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["image"] for row in rows) == ["blue.png", "green.png", "red.png"]
    assert sum(Path(row["image"]).stem == row["class"] for row in rows) >= 2
    assert "Images by class" in page.read_text()


def test_the_command_classifies_a_folder_by_names_alone(
    run: Callable[..., str], folder: Path, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    classified = json.loads(
        run("classify", colours, "--labels", tmp_path / "names.txt", "--model", folder, "--prompts", "one", "--json")
    )
    assert len(classified) == 24
    assert {image["names"][0] for image in classified} <= {"red", "green"}
    assert sum(classified[0]["probabilities"]) == pytest.approx(1)
