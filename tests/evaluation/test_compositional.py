from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.errors import DataError
from diptych.evaluation.compositional import swaps
from diptych.evaluation.compositional.checks import KINDS, Checks, Quads, evaluate_checks, evaluate_quads, make_checks
from diptych.evaluation.compositional.published import read_published, read_sugarcrepe, read_winoground
from diptych.evaluation.compositional.swaps import wrong_captions
from diptych.evaluation.metrics import compositional
from diptych.evaluation.metrics.compositional import right_choices, winoground_scores
from diptych.models import builder
from diptych.models import dual_encoder as dual


@pytest.mark.parametrize("module", [swaps, compositional])
def test_the_worked_examples_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize(
    ("kind", "caption", "wrong"),
    [
        ("swapped nouns", "A dog chases a man .", "A man chases a dog ."),
        ("swapped nouns", "the girl is watching an elderly woman", "the woman is watching an elderly girl"),
        ("swapped attributes", "a red ball on an orange mat", "an orange ball on a red mat"),
        ("swapped attributes", "Two dogs and three cats", "Three dogs and two cats"),
        ("replaced noun", "A basketball", ("A football", "A baseball", "A tennis", "A hockey")),
        ("replaced attribute", "An empty room", "A full room"),
        ("relation", "A cat in front of a house", "A cat behind a house"),
        ("relation", "A fish behind a house", "A fish in front of a house"),
        ("relation", "a star to the left of a heart", "a star to the right of a heart"),
        ("relation", "He climbs out of a car", "He climbs into a car"),
        ("negation", "A man is running", "A man is not running"),
        ("negation", "a boy with a hat", "a boy without a hat"),
        ("negation", "A dog runs", "No dog runs"),
    ],
)
def test_each_kind_of_change_makes_a_caption_wrong(kind: str, caption: str, wrong: str | tuple[str, ...]) -> None:
    made = wrong_captions(caption)[kind]
    assert made in (wrong if isinstance(wrong, tuple) else (wrong,))


@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("swapped nouns", "a dog and a cat play"),  # says the same the other way round
        ("swapped nouns", "a man next to a dog"),
        ("swapped attributes", "a black and white dog"),
        ("swapped attributes", "a red ball and a red car"),
        ("swapped attributes", "a red ball and a blue ball"),
        ("replaced attribute", "a young boy"),  # nobody writes "an old boy"
        ("negation", "rocks"),
        ("relation", "he sits down"),
    ],
)
def test_changes_that_keep_the_meaning_or_read_oddly_are_not_made(kind: str, caption: str) -> None:
    assert kind not in wrong_captions(caption)


def test_no_word_is_inserted_that_another_caption_of_the_image_has() -> None:
    for seed in range(20):
        made = wrong_captions("a red car", ["it is blue and green, or grey", "gray"], seed=str(seed))[
            "replaced attribute"
        ]
        assert made.split()[1] not in {"red", "blue", "green", "grey", "gray"}
    assert "relation" not in wrong_captions("a cat under a table", ["a lamp over it"])


def test_wrong_captions_are_deterministic_and_differ_from_the_right_one(scenes: Path) -> None:
    for row in read_pairs(scenes):
        for caption in row.captions:
            made = wrong_captions(caption, row.captions)
            assert made == wrong_captions(caption, row.captions)
            assert all(wrong.lower() != caption.lower() for wrong in made.values())


def test_checks_have_every_kind_that_the_captions_allow_up_to_the_limit(scenes: Path) -> None:
    pairs = read_pairs(scenes)
    checks = make_checks(pairs, limit=20)
    assert set(checks.counts()) <= set(KINDS)
    assert {"swapped attributes", "replaced noun", "replaced attribute"} <= set(checks.counts())
    assert max(checks.counts().values()) == 20
    for row, right in zip(checks.rows, checks.right, strict=True):
        assert right in pairs[int(row)].captions


def test_captions_without_a_word_of_the_lists_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,ein Hund läuft\n", encoding="utf-8")
    with pytest.raises(DataError, match="English"):
        make_checks(read_pairs(tmp_path))


def test_a_tie_is_not_a_right_choice() -> None:
    assert right_choices(np.array([1.0, 1.0]), np.array([1.0, 0.5])).tolist() == [False, True]


def test_winogrounds_scores_follow_the_definition() -> None:
    scores = np.array(
        [
            [[0.9, 0.1], [0.2, 0.8]],  # both
            [[0.9, 0.8], [0.1, 0.2]],  # pictures: 0.9 > 0.1, but 0.2 < 0.8; captions: 0.9 > 0.8 and 0.2 > 0.1
            [[0.5, 0.1], [0.4, 0.2]],  # pictures prefer their captions, caption 1 prefers picture 0
            [[0.5, 0.5], [0.5, 0.5]],  # ties
        ]
    )
    results = winoground_scores(scores)
    assert (results.text, results.image, results.group, results.examples) == (50.0, 50.0, 25.0, 4)
    with pytest.raises(ValueError, match="2 captions, 2 images"):
        winoground_scores(scores[:, 0])


def test_chance_is_what_winoground_states() -> None:
    results = winoground_scores(np.random.default_rng(0).standard_normal((20_000, 2, 2)))
    assert abs(results.text - 25) < 1.5
    assert abs(results.image - 25) < 1.5
    assert abs(results.group - 100 / 6) < 1.5


@pytest.fixture(scope="module")
def model(scenes: Path) -> dual.DualEncoder:
    captions = [caption for row in read_pairs(scenes) for caption in row.captions]
    return builder.build(
        "timm/test_resnet",
        "distilbert",
        pretrained=False,
        captions=captions,
        text_arguments={"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        dim=16,
        image_size=32,
        device="cpu",
    )


def test_choices_equal_those_of_one_check_at_a_time(model: dual.DualEncoder, scenes: Path) -> None:
    from diptych.images.decode import decode

    pairs = read_pairs(scenes)
    checks = make_checks(pairs, limit=12)
    scores = evaluate_checks(model, checks, resamples=20)
    for i in range(0, len(checks), 7):
        image = model.encode_images([decode(pairs[int(checks.rows[i])].image, min_side=model.image_size)])[0]
        right, wrong = model.encode_texts([checks.right[i], checks.wrong[i]]) @ image
        if abs(right - wrong) > 1e-5:
            assert scores.right[i] == (right > wrong)
    for row in scores.rows():
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 100
        assert row["checks"] == checks.counts()[row["kind"]]
    assert scores.mean == pytest.approx(np.mean(list(scores.accuracy.values())))


@pytest.fixture
def winoground(tmp_path: Path, scenes: Path) -> Path:
    """Three examples in the form of facebook/winoground."""
    images = sorted((scenes / "images").iterdir())
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(3):
        for side in (0, 1):
            with Image.open(images[2 * number + side]) as image:
                image.save(tmp_path / "images" / f"ex_{number}_img_{side}.png")
        lines.append(
            json.dumps(
                {
                    "id": number,
                    "image_0": f"ex_{number}_img_0",
                    "image_1": f"ex_{number}_img_1",
                    "caption_0": "a red star above a blue heart",
                    "caption_1": "a blue star above a red heart",
                    "tag": "Adjective-Color",
                    "secondary_tag": "",
                    "num_main_preds": 1,
                    "collapsed_tag": ("Object", "Relation", "Object")[number],
                }
            )
        )
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def sugarcrepe(tmp_path: Path, scenes: Path) -> Path:
    """Two of the files of RAIVNLab/sugar-crepe with COCO's pictures in another folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "val2017").mkdir()
    names = []
    for image in sorted((scenes / "images").iterdir())[:3]:
        shutil.copy(image, tmp_path / "val2017" / image.name)
        names.append(image.name)
    example = {"caption": "a red star", "negative_caption": "a blue star"}
    swapped = {str(i): {"filename": name, **example} for i, name in enumerate(names)}
    (tmp_path / "data" / "swap_att.json").write_text(json.dumps(swapped))
    (tmp_path / "data" / "add_obj.json").write_text(json.dumps([{"filename": names[0], **example}]))
    return tmp_path


def test_winoground_is_read_in_its_original_format(winoground: Path) -> None:
    quads = read_published(winoground)
    assert isinstance(quads, Quads)
    assert quads.tags == ("Object", "Relation", "Object")
    assert [row.captions[0].split()[1] for row in quads.images] == ["red", "blue"] * 3
    assert [Path(row.image).name for row in quads.images][:2] == ["ex_0_img_0.png", "ex_0_img_1.png"]


def test_winogrounds_scores_are_of_every_caption_with_every_image(winoground: Path, model: dual.DualEncoder) -> None:
    from diptych.images.decode import decode

    quads = read_winoground(winoground)
    results = evaluate_quads(model, quads)
    assert set(results.by_tag) == {"Object", "Relation"}
    assert results.by_tag["Object"].examples == 2
    images = model.encode_images([decode(row.image, min_side=32) for row in quads.images][2:4])
    captions = model.encode_texts([row.captions[0] for row in quads.images][2:4])
    np.testing.assert_allclose(results.scores[1], captions @ images.T, atol=1e-5)
    assert results.right()["group"].mean() * 100 == pytest.approx(results.all.group)


def test_an_image_of_a_benchmark_that_cannot_be_decoded_is_named(
    winoground: Path, sugarcrepe: Path, model: dual.DualEncoder
) -> None:
    """Left in, it would be no right choice, and the mean picture, which blind scores are of, no number at all."""
    checks = read_sugarcrepe(sugarcrepe / "data", images=sugarcrepe / "val2017")
    broken = Path(checks.images[1].image)
    broken.write_bytes(b"cut")
    with pytest.raises(DataError, match=broken.name):
        evaluate_checks(model, checks)
    quads = read_winoground(winoground)
    Path(quads.images[1].image).write_bytes(b"cut")
    with pytest.raises(DataError, match="0-1"):
        evaluate_quads(model, quads)


def test_sugarcrepe_is_read_in_its_original_format(sugarcrepe: Path) -> None:
    checks = read_published(sugarcrepe / "data", images=sugarcrepe / "val2017")
    assert isinstance(checks, Checks)
    assert checks.counts() == {"add_obj": 1, "swap_att": 3}
    assert len(checks.images) == 3
    assert (checks.right[0], checks.wrong[0]) == ("a red star", "a blue star")
    pair = read_sugarcrepe(sugarcrepe / "data" / "swap_att.json", images=sugarcrepe / "val2017")
    assert pair.counts() == {"swap_att": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "examples.jsonl:1 is not valid JSON"),
        ("[]", "is not an object"),
        ('{"image_0": "a", "image_1": "b", "caption_0": "x"}', "lacks caption_1"),
        ('{"image_0": "a", "image_1": "b", "caption_0": "x", "caption_1": "y"}', "there is no image 'a'"),
        ('{"image_0": "../../a", "image_1": "b", "caption_0": "x", "caption_1": "y"}', "lies outside"),
        ("", "has no examples"),
    ],
)
def test_a_broken_example_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "examples.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_published(tmp_path)


def test_a_folder_with_neither_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Winoground"):
        read_published(tmp_path)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_command_measures_own_captions_and_published_benchmarks(
    scenes: Path, sugarcrepe: Path, model: dual.DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save(tmp_path / "model")
    command = ["eval", "compositional", str(tmp_path / "model"), "--device", "cpu"]
    scores = json.loads(run([*command, "--data", str(scenes), "--split", "all", "--json"], capsys))
    assert {row["kind"] for row in scores["kinds"]} <= set(KINDS)
    assert 0 <= scores["mean"] <= 100
    published = [*command, "--published", str(sugarcrepe / "data"), "--image-folder", str(sugarcrepe / "val2017")]
    assert "swap_att" in run(published, capsys)
