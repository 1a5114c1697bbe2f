from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.cli import main
from diptych.data import templates as prompts_module
from diptych.data.classes import Classes, classes_in, read_class_folders, read_classes, read_labelled
from diptych.data.pairs import Pairs, Row
from diptych.data.templates import TEMPLATES, fill, templates
from diptych.errors import ConfigError, DataError
from diptych.evaluation.evaluators import ZeroShotEvaluator, embed_classes, evaluate_zeroshot
from diptych.evaluation.image_classifier import ImageClassifier
from diptych.evaluation.metrics import zeroshot
from diptych.evaluation.metrics.zeroshot import mean_class_embeddings, zeroshot_metrics, zeroshot_ranks
from diptych.models import builder
from diptych.models import dual_encoder as dual

TINY_TEXT = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def naive_rank(image: np.ndarray, names: np.ndarray, label: int) -> int:
    """One picture at a time, by counting."""
    scores = [float(np.dot(image.astype(float), name.astype(float))) for name in names]
    return 1 + sum(score >= scores[label] for i, score in enumerate(scores) if i != label)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of plain pictures, named after their colours."""
    folder = tmp_path_factory.mktemp("colours")
    for name, value in {"red": (255, 0, 0), "dark_green": (0, 90, 0), "blue": (0, 0, 255)}.items():
        (folder / name).mkdir()
        for shade in range(3):
            Image.new("RGB", (40, 40), tuple(max(0, part - 20 * shade) for part in value)).save(
                folder / name / f"{shade}.png"
            )
    return folder


@pytest.fixture(scope="module")
def model() -> dual.DualEncoder:
    torch.manual_seed(0)
    return builder.build(
        "timm/test_resnet",
        "distilbert",
        pretrained=False,
        captions=["a photo of a red dark green blue."],
        text_arguments=TINY_TEXT,
        dim=16,
        image_size=32,
        device="cpu",
    )


@pytest.mark.parametrize("module", [zeroshot, prompts_module])
def test_the_worked_examples_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


def test_ranks_equal_counting_one_image_at_a_time() -> None:
    images, names = unit(60, 8), unit(12, 8, seed=1)
    labels = np.random.default_rng(2).integers(0, 12, 60)
    expected = [naive_rank(image, names, label) for image, label in zip(images, labels, strict=True)]
    assert zeroshot_ranks(images, names, labels).tolist() == expected


def test_a_class_with_a_duplicate_name_is_never_first() -> None:
    names = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranks = zeroshot_ranks(np.array([[1.0, 0.0], [0.0, 1.0]]), names, np.array([0, 2]))
    assert ranks.tolist() == [2, 1]


def test_a_model_with_one_embedding_for_everything_scores_zero() -> None:
    same = np.ones((6, 4)) / 2
    scores = zeroshot_metrics(same, same[:3], np.array([0, 1, 2, 0, 1, 2]), ks=(1, 2, 3))
    assert scores.accuracy == {1: 0.0, 2: 0.0, 3: 100.0}


def test_the_mean_over_classes_weighs_classes_equally_and_leaves_out_empty_ones() -> None:
    images = np.array([[1.0, 0, 0]] * 9 + [[1.0, 0, 0]])
    scores = zeroshot_metrics(images, np.eye(3), np.array([0] * 9 + [1]))
    assert scores.accuracy[1] == 90.0
    assert scores.mean_per_class == 50.0
    assert scores.to_dict() == {"top1": 90.0, "top5": 100.0, "mean_per_class": 50.0, "images": 10, "classes": 3}


def test_class_embeddings_equal_those_of_one_class_at_a_time() -> None:
    prompts = 3 * np.random.default_rng(0).standard_normal((5, 7, 8))
    for vectors, found in zip(prompts, mean_class_embeddings(prompts), strict=True):
        mean = sum(vector / np.sqrt((vector**2).sum()) for vector in vectors) / 7
        np.testing.assert_allclose(found, mean / np.sqrt((mean**2).sum()), atol=1e-6)


def test_class_embeddings_equal_open_clips() -> None:
    open_clip = pytest.importorskip("open_clip", reason="the reference comes with the extra 'open-clip'")
    torch.manual_seed(0)
    small = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=small, text_cfg=text).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    names, seven = ["cat", "red fox", "dog"], templates("seven")
    expected = open_clip.build_zero_shot_classifier(clip, tokenizer, names, seven).T
    with torch.no_grad():
        prompts = clip.encode_text(tokenizer(fill(seven, names))).numpy().reshape(3, 7, 16)
    np.testing.assert_allclose(mean_class_embeddings(prompts), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (np.ones((2, 3)), "must be"),
        (np.zeros((1, 1, 2)), "zero, NaN or infinite"),
        (np.full((1, 1, 2), np.nan), "NaN"),
    ],
)
def test_prompts_of_zero_or_nan_embeddings_are_refused(prompts: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mean_class_embeddings(prompts)


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="ks is"):
        zeroshot_metrics(np.eye(2), np.eye(2), np.array([0, 1]), ks=(0,))


def test_the_templates_are_as_many_as_clips_and_each_has_one_placeholder() -> None:
    assert {name: len(group) for name, group in TEMPLATES.items()} == {"one": 1, "seven": 7, "eighty": 80}
    assert all(template.count("{}") == 1 for group in TEMPLATES.values() for template in group)
    assert len(set(TEMPLATES["eighty"])) == 80
    assert set(TEMPLATES["seven"]) <= set(TEMPLATES["eighty"])


def test_unknown_templates_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'eighty'"):
        templates("eigthy")


def test_a_folder_of_class_folders_becomes_pairs_whose_caption_is_the_class(colours: Path) -> None:
    pairs = read_class_folders(colours)
    assert {row.image_id: row.captions for row in pairs}["dark_green/1.png"] == ("dark_green",)
    assert len(pairs) == 9
    assert classes_in(pairs) == Classes(("blue", "dark_green", "red"), ("blue", "dark green", "red"))


def test_a_folder_above_the_classes_is_their_split(tmp_path: Path) -> None:
    for place in ("train/cat", "val/cat", "val/dog/deeper"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / place / "a.png")
    labels = {row.image_id: (row.captions[0], row.split) for row in read_class_folders(tmp_path)}
    assert labels == {
        "train/cat/a.png": ("cat", "train"),
        "val/cat/a.png": ("cat", "val"),
        "val/dog/deeper/a.png": ("dog", "val"),
    }


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no class subfolders"):
        read_class_folders(tmp_path)


def test_classes_are_read_from_a_file_of_names_or_of_labels_and_names(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("n01\ttench\n\n red fox \n", encoding="utf-8")
    assert read_classes(file) == Classes(("n01", "red fox"), ("tench", "red fox"))


@pytest.mark.parametrize(("text", "words"), [("cat\ncat\n", "'cat' occurs twice"), ("\n", "there are none")])
def test_duplicate_or_missing_classes_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_classes(tmp_path / "classes.txt")


def test_a_missing_file_of_classes_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="imagenet, imagenet-clip"):
        read_classes(tmp_path / "none.txt")


def test_imagenet_has_a_thousand_classes_by_wordnets_labels() -> None:
    imagenet = read_classes("imagenet")
    assert len(imagenet) == 1000
    assert (imagenet.labels[0], imagenet.names[0]) == ("n01440764", "tench")
    assert (imagenet.labels[-1], imagenet.names[-1]) == ("n15075141", "toilet tissue")


def test_imagenet_by_clips_names_has_the_same_classes() -> None:
    pytest.importorskip("open_clip", reason="the names come with the extra 'open-clip'")
    names = read_classes("imagenet-clip")
    assert names.labels == read_classes("imagenet").labels
    assert (names.names[0], names.names[-1]) == ("tench", "toilet paper")


def test_an_image_is_classified_by_its_label_or_its_name_whatever_the_case_and_hyphens() -> None:
    rows = [Row(str(i), Path(f"{i}.png"), (label,)) for i, label in enumerate(("N01", "Red-Fox", "red_fox"))]
    assert Classes(("n01", "n02"), ("tench", "red fox")).of(Pairs.from_rows(rows)).tolist() == [0, 1, 1]


def test_a_label_wins_over_a_name_and_of_equal_names_the_first() -> None:
    rows = [Row("a", Path("a.png"), ("crane",)), Row("b", Path("b.png"), ("heron",))]
    known = Classes(("n1", "n2", "heron", "n4"), ("crane", "crane", "bird", "heron"))
    assert known.of(Pairs.from_rows(rows)).tolist() == [0, 2]


def test_an_image_of_an_unknown_class_is_refused_with_its_id() -> None:
    pairs = Pairs.from_rows([Row("photo-7", Path("a.png"), ("wolf",))])
    with pytest.raises(DataError, match="'photo-7' has the class 'wolf'"):
        Classes(("cat",), ("cat",)).of(pairs)


def test_evaluation_equals_classifying_each_image_by_hand(colours: Path, model: dual.DualEncoder) -> None:
    pairs = read_class_folders(colours)
    scores, left_out = evaluate_zeroshot(model, pairs, prompts="seven")
    names = ["blue", "dark green", "red"]
    vectors = np.stack(
        [
            np.mean([model.encode_texts([template.replace("{}", name)])[0] for template in templates("seven")], axis=0)
            for name in names
        ]
    )
    right = 0
    for row in pairs:
        image = model.encode_images([Image.open(row.image).convert("RGB")])[0]
        nearest = int(np.argmax([vector @ image / np.linalg.norm(vector) for vector in vectors]))
        right += names[nearest] == row.captions[0].replace("_", " ")
    assert scores.accuracy[1] == pytest.approx(100 * right / 9)
    assert (scores.images, scores.classes, left_out.bad_images) == (9, 3, 0)


def test_a_broken_image_is_left_out_and_counted(colours: Path, model: dual.DualEncoder, tmp_path: Path) -> None:
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "broken.png").write_bytes(b"no picture")
    rows = [*read_class_folders(colours), *read_class_folders(tmp_path)]
    scores, left_out = evaluate_zeroshot(model, Pairs.from_rows(rows), prompts="one", max_bad_share=0.2)
    assert (scores.images, left_out.bad_images) == (9, 1)


def test_the_evaluator_refuses_another_number_of_embeddings(colours: Path) -> None:
    evaluator = ZeroShotEvaluator(read_class_folders(colours))
    with pytest.raises(ValueError, match="9 images and 3 classes"):
        evaluator(unit(8, 4), unit(3, 4))


def test_more_classes_than_a_block_stay_in_order(model: dual.DualEncoder) -> None:
    names = [f"{first}{second}" for first in "abcde" for second in "vwxyz"]
    together = embed_classes(model, names, templates("one"))
    alone = np.concatenate([embed_classes(model, [name], templates("one")) for name in names])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_folder_with_captions_is_read_by_them_and_one_without_by_its_folders(colours: Path, tmp_path: Path) -> None:
    assert classes_in(read_labelled(colours)).labels == ("blue", "dark_green", "red")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("image,caption\na.png,red\n")
    assert classes_in(read_labelled(tmp_path)).labels == ("red",)
    assert len(read_labelled(colours, "class-folders")) == 9


def test_the_command_line_prints_the_scores(
    colours: Path, model: dual.DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    (tmp_path / "classes.txt").write_text("red\nblue\ndark_green\tdark green\nyellow\n")
    words = ["eval", "zeroshot", str(tmp_path / "model"), "--data", str(colours)]
    words += ["--classes", str(tmp_path / "classes.txt"), "--prompts", "one", "--device", "cpu"]
    outputs = {}
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, *flags])
        assert not ended.value.code
        outputs[bool(flags)] = capsys.readouterr().out
    scores = json.loads(outputs[True])
    assert (scores["images"], scores["classes"], scores["left_out"]) == (9, 4, 0)
    assert f"{scores['top1']:.1f}" in outputs[False]
    assert "9 images, 4 classes" in outputs[False]


def test_a_single_class_is_nothing_to_measure() -> None:
    pairs = Pairs.from_rows([Row("a.jpg", Path("a.jpg"), ("cat",)), Row("b.jpg", Path("b.jpg"), ("cat",))])
    with pytest.raises(DataError, match="there is one class, 'cat', which every classifier gets right"):
        ZeroShotEvaluator(pairs)
    with pytest.raises(DataError, match="there is one class"):
        ImageClassifier(None, classes_in(pairs)).cross_validate(pairs)  # type: ignore[arg-type]
