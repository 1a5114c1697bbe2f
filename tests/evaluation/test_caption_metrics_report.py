"""Captions of a data set, scored: by a captioner, from a file; the report, its page and table, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.captioning.caption_files import one_each, read_caption_file, read_references
from diptych.captioning.captioner import Captioner
from diptych.captioning.strategies import GenerationConfig
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import ConfigError, DataError
from diptych.evaluation.captions import CaptionEvaluator, Scorer, evaluate_captioner, evaluate_captions
from diptych.evaluation.captions_page import caption_page, save_page, save_table
from diptych.evaluation.metrics.clipscore import clip_score, ref_clip_score
from diptych.images.decode import decode
from diptych.models.dual_encoder import DualEncoder
from tests.captioning.test_captioner import encoder, images, saved, writer  # noqa: F401 - fixtures
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture

# ruff: noqa: F811 - the fixtures


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR's program takes ten seconds to start; `test_caption_metrics` is where it runs."""
    from diptych.evaluation.metrics import java

    monkeypatch.setattr(java, "java", lambda: None)


@pytest.fixture
def pairs(scenes: Path) -> Pairs:
    return read_pairs(scenes)[:6]


def some_captions(pairs: Pairs) -> dict[str, str]:
    """The first caption of each picture but the last, which gets that of the first."""
    rows = list(pairs)
    return {row.image_id: (rows[0] if row is rows[-1] else row).captions[0] for row in rows}


def test_the_report_has_every_score_of_the_corpus_and_of_each_image(pairs: Pairs, encoder: DualEncoder) -> None:
    report = CaptionEvaluator(pairs, training=["nothing"], scorer=Scorer("tiny", encoder))(some_captions(pairs))
    keys = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", "clipscore", "refclipscore"}
    assert report.corpus.keys() == keys
    assert all(scored.scores.keys() == keys for scored in report.captions)
    assert [scored.image_id for scored in report.captions] == pairs.image_ids
    assert report.missing.keys() == {"meteor", "spice"}
    assert report.name("clipscore") == "CLIPScore (tiny)"
    assert report.variety.novel == 1
    assert report.variety.repeated == pytest.approx(2 / 6)
    assert json.loads(json.dumps(report.to_dict()))["clipscore_model"] == "tiny"
    assert "no Java" in report.to_dict()["tokenizer"]


def test_clipscore_uses_the_images_and_texts_with_the_papers_prefix(pairs: Pairs, encoder: DualEncoder) -> None:
    captions = some_captions(pairs)
    report = CaptionEvaluator(pairs, scorer=Scorer("tiny", encoder))(captions)
    images = encoder.encode_images([decode(row.image, min_side=encoder.image_size) for row in pairs])
    texts = encoder.encode_texts([f"A photo depicts {captions[image_id]}" for image_id in pairs.image_ids])
    known, owner = pairs.flat_captions()
    references = encoder.encode_texts([f"A photo depicts {text}" for text in known])
    by_hand = clip_score(images, texts)
    assert [scored.scores["clipscore"] for scored in report.captions] == pytest.approx(by_hand, abs=1e-4)
    with_references = ref_clip_score(images, texts, references, owner)
    assert report.corpus["refclipscore"] == pytest.approx(with_references.mean(), abs=1e-4)
    without = encoder.encode_texts([captions[image_id] for image_id in pairs.image_ids])
    assert np.abs(clip_score(images, without) - by_hand).max() > 1e-3


def test_clipscore_without_a_dual_encoder_is_reported_as_missing(pairs: Pairs) -> None:
    report = CaptionEvaluator(pairs)(some_captions(pairs))
    assert "no dual encoder" in report.missing["clipscore"]
    assert report.to_dict()["clipscore_model"] is None


def test_a_caption_of_another_image_is_the_worst(pairs: Pairs) -> None:
    worst = CaptionEvaluator(pairs)(some_captions(pairs)).worst_first()
    assert worst[0].image_id == pairs.image_ids[-1]
    assert worst[-1].scores["cider_d"] > worst[0].scores["cider_d"]


def test_a_captioner_is_scored_on_its_captions(pairs: Pairs, writer) -> None:
    captioner = Captioner("tiny", writer)
    report, left_out = evaluate_captioner(captioner, pairs, generation=GenerationConfig("greedy"))
    images = [decode(row.image, min_side=captioner.image_size) for row in pairs]
    written = [of_one[0].text for of_one in captioner.caption(images, method="greedy")]
    assert [scored.caption for scored in report.captions] == written
    assert not left_out.bad_images


def test_a_broken_image_is_left_out_and_reported(pairs: Pairs, writer, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    rows = Pairs.from_rows([*pairs, Row("broken.jpg", tmp_path / "broken.jpg", ("a dog",))])
    report, left_out = evaluate_captioner(Captioner("tiny", writer), rows, max_bad_share=0.5)
    assert left_out.bad_images == 1
    assert len(report.captions) == len(pairs)
    for captions in (some_captions(pairs), some_captions(pairs) | {"broken.jpg": "a dog"}):
        report, left_out = evaluate_captions(captions, rows, max_bad_share=0.5)
        assert left_out.bad_images == 1
        assert len(report.captions) == len(pairs)


def test_captions_of_other_images_are_refused(pairs: Pairs) -> None:
    with pytest.raises(DataError, match=r"1 images have a caption but no references \('other.jpg'\)"):
        evaluate_captions(some_captions(pairs) | {"other.jpg": "a dog"}, pairs)
    with pytest.raises(DataError, match="have references but no caption"):
        evaluate_captions(dict(list(some_captions(pairs).items())[1:]), pairs)


# the page and the table


def test_the_page_shows_worst_then_best_with_references_and_escapes_every_text(pairs: Pairs) -> None:
    captions = some_captions(pairs) | {pairs.image_ids[2]: "<script>alert('x')</script>"}
    page = caption_page(CaptionEvaluator(pairs)(captions), "<b>title</b>", shown=2)
    assert page.count("<img") == 4
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;title" in page
    assert page.index("Lowest CIDEr-D") < page.index("Highest CIDEr-D")
    worst = CaptionEvaluator(pairs)(captions).worst_first()
    places = [page.index(caption.image_id) for caption in (*worst[:2], worst[-1], worst[-2])]
    assert places == sorted(places)
    assert all(reference in page for reference in worst[0].references)
    assert "no Java" in page
    assert "METEOR was not computed" in page


def test_few_images_are_on_the_page_once(pairs: Pairs) -> None:
    page = caption_page(CaptionEvaluator(pairs)(some_captions(pairs)), "all", shown=4)
    assert page.count("<img") == 6
    assert all(page.count(f">{image_id}<") == 1 for image_id in pairs.image_ids)


def test_a_missing_image_is_marked_on_the_page(tmp_path: Path) -> None:
    rows = Pairs.from_rows([Row(f"{i}.jpg", tmp_path / f"{i}.jpg", (f"a dog {i}",)) for i in range(2)])
    page = caption_page(CaptionEvaluator(rows)({"0.jpg": "a dog", "1.jpg": "a cat"}), "gone")
    assert page.count("no longer available") == 2


def test_the_table_has_a_line_for_each_image_and_a_column_for_each_score(pairs: Pairs, tmp_path: Path) -> None:
    report = CaptionEvaluator(pairs)(some_captions(pairs))
    save_table(report, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == pairs.image_ids
    assert float(rows[0]["cider_d"]) == pytest.approx(report.captions[0].scores["cider_d"], abs=1e-4)
    assert rows[0].keys() == {"image", "caption", *report.corpus}


def test_a_file_that_cannot_be_written_is_named(pairs: Pairs, tmp_path: Path) -> None:
    report = CaptionEvaluator(pairs)(some_captions(pairs))
    for save in (lambda path: save_page(report, "x", path), lambda path: save_table(report, path)):
        with pytest.raises(ConfigError, match="cannot write"):
            save(tmp_path / "no" / "where")


# files of captions

FORMS = {
    "captions.json": '{"a.jpg": "a dog", "b.jpg": ["a cat"]}',
    "results.json": '[{"image_id": "a.jpg", "caption": "a dog"}, {"image_id": "b.jpg", "caption": "a cat"}]',
    "captions.jsonl": '{"image": "x/a.jpg", "captions": [{"text": "a dog", "score": -1.0}]}\n'
    '{"image": "broken.jpg", "error": "truncated", "message": "..."}\n'
    '{"image": "x/b.jpg", "captions": [{"text": "a cat", "score": -1.0}]}\n',
    "captions.csv": "image,caption\na.jpg,a dog\nb.jpg,a cat\n",
    "captions.tsv": "image\tcaption\na.jpg\ta dog\nb.jpg\ta cat\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_captions_are_read_from_every_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name])
    captions = one_each(read_caption_file(tmp_path / name), ["a.jpg", "b.jpg"], name)
    assert captions == {"a.jpg": "a dog", "b.jpg": "a cat"}


def test_the_output_of_diptych_caption_is_read(run: Run, scenes: Path, saved: Path, tmp_path: Path) -> None:
    for out in ("captions.jsonl", "captions.csv"):
        done = run("caption", scenes / "images", "--model", saved, "--method", "greedy", "--out", out)
        assert done.code == 0, done.err
        captions = one_each(read_caption_file(out), read_pairs(scenes).image_ids, out)
        assert sorted(captions) == sorted(read_pairs(scenes).image_ids)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("/data/flickr/images/1.jpg", "images/1.jpg"),
        ("C:\\data\\images\\1.jpg", "images/1.jpg"),
        ("1.jpg", "1.jpg"),
        ("139", "COCO_val2014_000000000139.jpg"),
        ("7", "7"),
    ],
)
def test_a_path_or_a_number_matches_the_id_that_it_ends_with(name: str, image_id: str) -> None:
    ids = ["1.jpg", "images/1.jpg", "COCO_val2014_000000000139.jpg", "000000000007.jpg", "7"]
    assert one_each({name: ["a dog"]}, ids, "x") == {image_id: "a dog"}


def test_a_number_that_two_names_end_with_matches_neither() -> None:
    assert one_each({"1": ["a dog"]}, ["a/1.jpg", "b/1.jpg"], "x") == {"1": "a dog"}


def test_several_captions_of_an_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several captions for 'a\.jpg'"):
        one_each({"a.jpg": ["a dog", "a cat"]}, ["a.jpg"], "x")
    with pytest.raises(DataError, match=r"several captions for 'a\.jpg'"):
        one_each({"a.jpg": ["a dog"], "x/a.jpg": ["a cat"]}, ["a.jpg"], "x")


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_caption_file(tmp_path / "nowhere.json")
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(DataError, match="contains no captions"):
        read_caption_file(tmp_path / "empty.json")


def coco(folder: Path, names: dict[int, str], captions: dict[int | str, str]) -> Path:
    """COCO's annotation file of `names`, image id to file name."""
    path = folder / "captions_val2014.json"
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    annotations = [{"id": i, "image_id": key, "caption": text} for i, (key, text) in enumerate(captions.items())]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


SHIFTED = {1: "000000000002.jpg", 2: "000000000001.jpg"}  # the ids are not the digits of the names


@pytest.mark.parametrize("number", [int, str, float])
def test_results_meet_the_ids_of_the_annotation_file_and_not_the_digits_of_names(
    run: Run, number: type, tmp_path: Path
) -> None:
    annotated = coco(tmp_path, SHIFTED, {1: "two dogs run on grass", "2": "a red boat at sea"})
    results = [
        {"image_id": number(1), "caption": "two dogs run on grass"},
        {"image_id": number(2), "caption": "a red boat at sea"},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ("--captions", tmp_path / "results.json", "--tokenizer", "fallback", "--json")
    by_references = run("eval", "caption", *arguments, "--references", annotated)
    assert by_references.code == 0, by_references.err
    assert json.loads(by_references.out)["rouge_l"] == 1.0
    (tmp_path / "images").mkdir()
    for place, name in enumerate(SHIFTED.values()):
        Image.new("RGB", (32, 32), (place, 0, 0)).save(tmp_path / "images" / name)
    by_data = run("eval", "caption", *arguments, "--data", annotated, "--split", "val", "--clip", "none")
    assert by_data.code == 0, by_data.err
    assert json.loads(by_data.out)["rouge_l"] == 1.0


def test_captions_without_an_image_and_images_without_a_caption_are_both_counted(run: Run, tmp_path: Path) -> None:
    annotated = coco(tmp_path, SHIFTED, {1: "two dogs run on grass", 2: "a red boat at sea"})
    (tmp_path / "results.json").write_text('[{"image_id": 1, "caption": "dogs"}, {"image_id": 7, "caption": "a cat"}]')
    done = run("eval", "caption", "--captions", tmp_path / "results.json", "--references", annotated)
    assert done.code != 0
    assert "1 images have references but no caption ('000000000001.jpg')" in done.err
    assert "1 images have a caption but no references ('7')" in done.err


def test_an_annotation_file_without_captions_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no captions"):
        read_references(coco(tmp_path, SHIFTED, {}))


# the command


def test_the_command_evaluates_a_captioner(run: Run, scenes: Path, saved: Path, tmp_path: Path) -> None:
    words = ("eval", "caption", saved, "--data", scenes, "--split", "val", "--method", "greedy", "--clip", saved)
    result = run(*words, "--output", "page.html", "--table", "scores.csv")
    assert result.code == 0, result.err
    assert "RefCLIPScore (" in result.out
    assert "tokenizer: diptych's own" in result.out
    assert "METEOR is not available" in result.out
    assert "captions not in the training data" in result.out
    assert (tmp_path / "page.html").stat().st_size > 1000
    assert (tmp_path / "scores.csv").read_text().startswith("image,caption,bleu1")


def test_the_command_scores_a_file_of_captions_as_json(run: Run, scenes: Path, tmp_path: Path) -> None:
    pairs = read_pairs(scenes).with_val().split("val")
    Path("captions.json").write_text(json.dumps(some_captions(pairs)))
    words = ("eval", "caption", "--data", scenes, "--split", "val", "--captions", "captions.json")
    result = json.loads(run(*words, "--clip", "none", "--json").out)
    expected, _ = evaluate_captions(some_captions(pairs), pairs)
    assert result["cider_d"] == pytest.approx(expected.corpus["cider_d"])
    assert result["left_out"] == 0


def test_two_files_need_no_data_set(run: Run, tmp_path: Path) -> None:
    Path("captions.json").write_text('{"1": "two dogs run", "2": "a red car"}')
    Path("known.json").write_text('{"1": ["two dogs run", "dogs"], "2": ["a blue car"]}')
    result = run("eval", "caption", "--captions", "captions.json", "--references", "known.json")
    assert result.code == 0, result.err
    assert "captions.json: 2 images" in result.out
    assert "BLEU-1" in result.out


def test_missing_ids_are_named_by_the_command(run: Run, tmp_path: Path) -> None:
    Path("captions.json").write_text('{"1": "two dogs run"}')
    Path("known.json").write_text('{"1": ["two dogs run"], "2": ["a blue car"]}')
    result = run("eval", "caption", "--captions", "captions.json", "--references", "known.json")
    assert result.code == 1
    assert "'2'" in result.err


def test_the_command_without_data_says_what_to_give(run: Run) -> None:
    result = run("eval", "caption")
    assert result.code == 1
    assert "give --data" in result.err


def test_a_page_of_large_images_stays_small(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)).save(tmp_path / "big.jpg")
    rows = Pairs.from_rows([Row("big.jpg", tmp_path / "big.jpg", ("noise",))])
    page = caption_page(CaptionEvaluator(rows)({"big.jpg": "noise"}), "big", size=120)
    assert len(page) < 60_000
