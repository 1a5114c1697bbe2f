"""Scores of captions: against coco-caption's own where it is installed, published figures, and hand-worked cases."""

from __future__ import annotations

import doctest
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import ConfigError, DataError, MissingExtra
from diptych.evaluation.metrics import bleu as bleu_module
from diptych.evaluation.metrics import caption_variety as variety_module
from diptych.evaluation.metrics import captions as captions_module
from diptych.evaluation.metrics import cider as cider_module
from diptych.evaluation.metrics import clipscore as clipscore_module
from diptych.evaluation.metrics import java, meteor
from diptych.evaluation.metrics import rouge as rouge_module
from diptych.evaluation.metrics import spice as spice_module
from diptych.evaluation.metrics.bleu import bleu
from diptych.evaluation.metrics.caption_variety import caption_variety
from diptych.evaluation.metrics.captions import score_captions
from diptych.evaluation.metrics.cider import CiderD
from diptych.evaluation.metrics.clipscore import clip_score, ref_clip_score
from diptych.evaluation.metrics.rouge import common_subsequence, rouge_l
from diptych.evaluation.metrics.spice import tuples_f1

MODULES = (bleu_module, rouge_module, cider_module, captions_module, variety_module, clipscore_module, spice_module)

caption = st.lists(st.sampled_from(["a", "dog", "runs", "on", "the", "red", "mat"]), min_size=1, max_size=9)
image = st.tuples(caption, st.lists(caption, min_size=1, max_size=4))
images = st.lists(image, min_size=1, max_size=5)


def apart(pairs: list) -> tuple[list, list]:
    return [words for words, _ in pairs], [references for _, references in pairs]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


# coco-caption itself


@given(images)
@settings(max_examples=60, deadline=None)
def test_bleu_rouge_l_and_cider_d_equal_coco_captions(pairs) -> None:
    coco = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = apart(pairs)
    captions = {i: [" ".join(words)] for i, words in enumerate(candidates)}
    known = {i: [" ".join(words) for words in own] for i, own in enumerate(references)}
    scorer = coco.BleuScorer(n=4)
    for i in captions:
        scorer += (captions[i][0], known[i])
    whole, own = bleu(candidates, references)
    theirs, theirs_each = scorer.compute_score(option="closest")
    assert whole == pytest.approx(theirs, rel=1e-12, abs=0)
    assert pytest.approx(np.array(theirs_each), rel=1e-12, abs=0) == own.T
    assert rouge_l(candidates, references) == pytest.approx(Rouge().compute_score(known, captions)[1], rel=1e-12)
    assert CiderD(references)(candidates) == pytest.approx(
        Cider().compute_score(known, captions)[1], rel=1e-9, abs=1e-12
    )


# published figures: BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D (METEOR of all: benchmarks/caption_metrics_golden.py)

PUBLISHED = {
    "good_captions": (0.6667, 0.4899, 0.3469, 0.0000, 0.4280, 0.5637),
    "bad_captions": (0.4815, 0.2404, 0.1359, 0.0000, 0.3121, 0.2790),
    "nlg_eval": (0.550000, 0.428174, 0.284043, 0.201143, 0.522104, 1.242192),
}
KEYS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")


def golden(case: str) -> tuple[dict, dict]:
    """Captions and references of a published case, which are not ours to carry."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "caption_metrics"
    folder = Path(os.environ.get("DIPTYCH_CAPTION_GOLDEN", beside))
    if not folder.is_dir():
        pytest.skip("no golden captions: DIPTYCH_CAPTION_GOLDEN names their folder")
    if case != "nlg_eval":
        folder = folder / "clipscore_example"
        return json.loads((folder / f"{case}.json").read_text()), json.loads((folder / "refs.json").read_text())
    captions = dict(enumerate((folder / case / "hyp.txt").read_text().splitlines()))
    lines = [(folder / case / f"ref{number}.txt").read_text().splitlines() for number in (1, 2)]
    return captions, {i: [line[i] for line in lines] for i in captions}


@pytest.mark.parametrize("case", PUBLISHED)
@pytest.mark.parametrize("tokenizer", ["ptb", "fallback"])
def test_published_scores_are_reproduced_to_the_last_digit(case: str, tokenizer: str) -> None:
    if tokenizer == "ptb" and not java.runs("tokenizer", "stanford-corenlp-3.4.1.jar"):
        pytest.skip("no Java, or no pycocoevalcap")
    scores = score_captions(*golden(case), tokenizer=tokenizer, metrics=["bleu", "rouge_l", "cider_d"])
    digits = 6 if case == "nlg_eval" else 4
    assert {key: round(scores.corpus[key], digits) for key in KEYS} == dict(zip(KEYS, PUBLISHED[case], strict=True))
    assert scores.tokenizer == tokenizer


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(meteor.meteor_missing()), reason="no Java, or no pycocoevalcap")
def test_a_published_meteor_is_reproduced_to_its_last_digit() -> None:
    scores = score_captions(*golden("nlg_eval"), tokenizer="ptb", metrics=["meteor"])
    assert round(scores.corpus["meteor"], 6) == 0.295797


# worked out by hand


def test_bleu_clips_ngram_counts_to_the_largest_of_one_reference() -> None:
    captions = ["the", "the", "the", "the"]
    whole, _ = bleu([captions], [[["the", "cat", "on", "the", "mat"], ["the", "cat", "sat"]]], longest=1)
    assert whole[0] == pytest.approx(2 / 4 * 1)  # the nearest length of 3 and 5 is 3: no penalty


def test_bleu_penalizes_captions_shorter_than_the_closest_reference() -> None:
    whole, own = bleu([["a", "dog"]], [[["a", "dog", "runs"], ["a", "dog", "runs", "on", "the", "mat"]]], longest=1)
    assert whole[0] == pytest.approx(math.exp(1 - 3 / 2))
    assert own[0, 0] == whole[0]


def test_the_shorter_of_two_equally_close_references_sets_the_length() -> None:
    captions = ["a", "dog", "runs"]
    whole, _ = bleu([captions], [[["a", "dog"], ["a", "dog", "runs", "here"]]], longest=1)
    assert whole[0] == pytest.approx(1)


def test_corpus_bleu_sums_counts_and_is_not_the_mean() -> None:
    captions, known = [["a"], ["a", "dog", "runs"]], [[["b"]], [["a", "dog", "runs"]]]
    whole, own = bleu(captions, known, longest=1)
    assert whole[0] == pytest.approx(3 / 4)
    assert own[:, 0].mean() == pytest.approx(1 / 2)


def test_rouge_l_takes_precision_and_recall_from_different_references() -> None:
    captions = ["a", "dog", "runs"]
    known = [["a", "dog", "runs", "on", "the", "red", "mat"], ["dog"]]  # 3/3 by the first, 1/1 by the second
    assert rouge_l([captions], [known])[0] == pytest.approx(1)


def test_cider_d_weighs_by_rarity_clips_and_penalizes_length() -> None:
    """One of two pictures has `b`, both have `a`: only `b` weighs, log 2; of 1-grams alone."""
    known = [[["a", "b"]], [["a"]]]
    score = CiderD(known)
    once, twice = score([["b"], ["b", "b"]], rows=[0, 0])
    assert once == pytest.approx(10 / 4 * math.exp(-1 / 72))  # 2 words against 1: they differ by one pair of words
    # Weights of 2 log 2 against log 2 are clipped: log 2 * log 2 / (2 log 2 * log 2); "b b" is in no reference.
    assert twice == pytest.approx(10 / 4 * 1 / 2)


def test_cider_d_of_a_single_image_is_0() -> None:
    assert CiderD([[["a", "dog"]]])([["a", "dog"]])[0] == 0


def test_cider_d_scores_several_candidates_of_an_image_as_it_scores_each() -> None:
    known = [[["a", "dog"]], [["two", "cats"], ["a", "cat"]], [["a", "red", "mat"]]]
    captions = [["a", "dog"], ["two", "cats"], ["a", "mat"]]
    score = CiderD(known)
    own = score(captions)
    assert score([captions[1], captions[0], captions[1]], rows=[1, 0, 1]).tolist() == [own[1], own[0], own[1]]


def test_cider_d_is_the_same_on_words_and_on_token_ids() -> None:
    known = [[["a", "dog"], ["the", "dog", "runs"]], [["two", "cats"]]]
    number = {word: i for i, word in enumerate(["a", "dog", "the", "runs", "two", "cats"])}
    numbered = [[[number[word] for word in words] for words in own] for own in known]
    captions = [["a", "dog", "runs"], ["cats"]]
    assert (
        CiderD(known)(captions).tolist()
        == CiderD(numbered)([[number[w] for w in words] for words in captions]).tolist()
    )


def test_spice_counts_a_tuple_once_and_accepts_synonyms() -> None:
    captions = [("dog",), ("dog",), ("puppy", "run"), ("mat",)]
    known = [("dog",), ("puppy", "sprint"), ("grass",), ("sky",)]
    pairs = {("run", "sprint")}
    assert tuples_f1(captions, known) == pytest.approx(2 * 1 / (3 + 4))
    assert tuples_f1(captions, known, lambda a, b: a == b or (a, b) in pairs) == pytest.approx(2 * 2 / (3 + 4))
    assert tuples_f1([], known) == tuples_f1(captions, []) == tuples_f1([], []) == 0


def test_clipscore_is_clipped_at_0_and_scaled_by_2_and_a_half() -> None:
    images = np.eye(3)
    captions = np.array([[0.4, np.sqrt(1 - 0.16), 0], [0, -1, 0], [1, 0, 0]])
    assert clip_score(images, captions) == pytest.approx([2.5 * 0.4, 0, 0])


def test_refclipscore_is_the_harmonic_mean_with_the_best_reference_and_0_where_either_is() -> None:
    images = np.array([[1.0, 0], [1, 0], [1, 0]])
    captions = np.array([[0.8, 0.6], [0.8, 0.6], [0, 1.0]])
    known = np.array([[0.8, 0.6], [-1, 0], [-0.8, -0.6], [0, 1]])
    scores = ref_clip_score(images, captions, known, [0, 0, 1, 2])
    assert scores == pytest.approx([2 * 2 * 1 / (2 + 1), 0, 0])


def test_clip_scores_reject_invalid_embeddings() -> None:
    unit = np.eye(2)
    with pytest.raises(ValueError, match="row 1 of the image"):
        clip_score(np.array([[1.0, 0], [np.nan, 0]]), unit)
    with pytest.raises(ValueError, match="must be equal"):
        clip_score(unit, unit[:1])
    with pytest.raises(ValueError, match="every image must have one"):
        ref_clip_score(unit, unit, unit, [0, 0])
    with pytest.raises(ValueError, match="not empty"):
        clip_score(np.empty((0, 2)), np.empty((0, 2)))


def test_novelty_needs_training_captions() -> None:
    captions = [["a", "dog"], ["a", "dog"], ["a", "cat"]]
    assert caption_variety(captions).novel is None
    assert caption_variety(captions, [["a", "dog"]]).novel == pytest.approx(1 / 3)
    assert caption_variety(captions, []).novel == 1
    assert caption_variety(captions).repeated == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no caption"):
        caption_variety([])


# properties


@given(images)
@settings(max_examples=60, deadline=None)
def test_scores_stay_in_their_ranges(pairs) -> None:
    candidates, references = apart(pairs)
    whole, own = bleu(candidates, references)
    assert (own >= 0).all()
    assert (own <= 1).all()
    assert (whole <= 1).all()
    assert (((rouge := rouge_l(candidates, references)) >= 0) & (rouge <= 1 + 1e-12)).all()
    assert (((cider := CiderD(references)(candidates)) >= 0) & (cider <= 10 + 1e-9)).all()


@given(images, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_references_and_of_images_does_not_matter(pairs, random) -> None:
    candidates, references = apart(pairs)
    order = random.sample(range(len(pairs)), len(pairs))
    mixed = [random.sample(references[i], len(references[i])) for i in order]
    captions = [candidates[i] for i in order]
    assert bleu(captions, mixed)[0] == pytest.approx(bleu(candidates, references)[0], rel=1e-12)
    assert rouge_l(captions, mixed) == pytest.approx(rouge_l(candidates, references)[order], rel=1e-12)
    assert CiderD(mixed)(captions) == pytest.approx(CiderD(references)(candidates)[order], rel=1e-9, abs=1e-12)


@given(images)
@settings(max_examples=60, deadline=None)
def test_a_caption_that_is_one_of_its_references_has_full_bleu_and_rouge_l(pairs) -> None:
    _, references = apart(pairs)
    captions = [own[-1] for own in references]
    whole, _ = bleu(captions, references)
    longest = max(map(len, captions))
    assert whole[: min(longest, 4)] == pytest.approx(1, abs=1e-6)
    assert rouge_l(captions, references) == pytest.approx(1)


@given(caption, caption)
@settings(max_examples=60, deadline=None)
def test_the_common_subsequence_equals_the_plain_recursion(one, other) -> None:
    def plain(a: tuple, b: tuple) -> int:
        if not a or not b:
            return 0
        same = 1 + plain(a[1:], b[1:]) if a[0] == b[0] else 0
        return same or max(plain(a[1:], b), plain(a, b[1:]))

    one, other = one[:6], other[:6]
    assert common_subsequence(one, other) == common_subsequence(other, one) == plain(tuple(one), tuple(other))


@given(st.lists(st.sampled_from([("dog",), ("mat",), ("dog", "red"), ("dog", "on", "mat")]), max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_scene_graph_matches_itself_completely(graph) -> None:
    assert tuples_f1(graph, list(reversed(graph))) == (1 if graph else 0)


# ids


def test_references_are_matched_by_id_and_not_by_order() -> None:
    known = {"a": ["a red dog runs"], "b": ["two cats sleep on a mat"]}
    captions = {"b": "two cats sleep on a mat", "a": "a red dog runs"}
    scores = score_captions(captions, known, metrics=["bleu", "rouge_l", "cider_d"])
    assert scores.corpus["bleu4"] == pytest.approx(1, abs=1e-6)
    assert scores.per_image["a"]["cider_d"] == pytest.approx(10)
    assert scores.per_image.keys() == known.keys()


def test_missing_and_extra_ids_are_errors_that_name_some() -> None:
    known = {f"{i}.jpg": ["a dog"] for i in range(6)}
    captions = dict.fromkeys(list(known)[:1], "a dog") | {"other.jpg": "a cat"}
    with pytest.raises(DataError) as error:
        score_captions(captions, known)
    assert "5 images have references but no caption ('1.jpg', '2.jpg', '3.jpg', ...)" in str(error.value)
    assert "1 images have a caption but no references ('other.jpg')" in str(error.value)


@pytest.mark.parametrize(
    ("known", "message"), [({1: []}, "empty list"), ({1: "a dog"}, "a string instead of a list"), ({}, "no references")]
)
def test_images_without_references_are_an_error(known, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_captions({1: "a dog"}, known)


def test_no_caption_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no caption to score"):
        score_captions({}, {})


def test_an_unknown_metric_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cider_d'"):
        score_captions({1: "a"}, {1: ["a"]}, metrics=["cider"])


def test_a_caption_without_words_scores_0() -> None:
    scores = score_captions({1: "", 2: "a dog"}, {1: ["a cat"], 2: ["a dog"]}, metrics=["bleu", "rouge_l", "cider_d"])
    assert set(scores.per_image[1].values()) == {0.0}
    assert all(math.isfinite(value) for value in scores.corpus.values())


# without Java, and with it


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java.java.cache_clear()
    yield
    java.java.cache_clear()


def test_without_java_the_other_metrics_are_computed_and_the_report_says_what_is_missing(without_java: None) -> None:
    scores = score_captions({1: "a dog"}, {1: ["a dog"]})
    assert scores.tokenizer == "fallback"
    assert "meteor" not in scores.corpus
    assert "Java" in scores.missing["meteor"]
    assert {"bleu4", "rouge_l", "cider_d"} <= scores.corpus.keys()


def test_without_java_a_metric_that_needs_it_is_refused_when_requested(without_java: None) -> None:
    for wanted in ({"metrics": ["meteor"]}, {"metrics": ["spice"]}, {"tokenizer": "ptb"}):
        with pytest.raises(MissingExtra, match="Java"):
            score_captions({1: "a dog"}, {1: ["a dog"]}, **wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for Java")
def test_a_java_that_does_not_start_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(shutil.which('sh') or '').parent}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java.java.cache_clear()
    assert java.java() is None
    java.java.cache_clear()


SPICE_PROGRAM = """#!{python}
import json, sys
if "-version" in sys.argv:
    sys.exit()
at = sys.argv.index("-jar")
asked = json.load(open(sys.argv[at + 2]))
captions = {{each["image_id"]: (each["test"], each["refs"]) for each in asked}}
assert captions == {{0: ("a dog", ["a dog runs", "a hound"]), 1: ("", ["a cat"])}}, captions
scores = ((1, float("nan")), (0, 0.5))
found = [{{"image_id": row, "scores": {{"All": {{"f": value}}}}}} for row, value in scores]
json.dump(found, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for Java")
def test_spice_runs_its_program_and_reads_the_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The parser's model is not to be had here: a script stands in the program's place."""
    (tmp_path / "java").write_text(SPICE_PROGRAM.format(python=sys.executable))
    (tmp_path / "java").chmod(0o755)
    (tmp_path / "pycocoevalcap" / "spice" / "lib").mkdir(parents=True)
    for parts in (("__init__.py",), spice_module._JAR, *spice_module._MODEL):
        tmp_path.joinpath("pycocoevalcap", *parts).touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    java.java.cache_clear()
    try:
        scores = spice_module.spice([["a", "dog"], []], [[["a", "dog", "runs"], ["a", "hound"]], [["a", "cat"]]])
    finally:
        java.java.cache_clear()
    assert scores.tolist() == [0.5, 0.0]


@pytest.mark.timeout(900)  # the program reads a table of paraphrases for ten seconds of a core that is its own
@pytest.mark.skipif(bool(meteor.meteor_missing()), reason="no Java, or no pycocoevalcap")
def test_meteor_equals_coco_captions_and_accepts_captions_without_words() -> None:
    """One start of the program, for it takes long; the figures are those of pycocoevalcap 1.2."""
    captions = [["a", "dog", "is", "running"], [], ["a", "cat", "|||", "sleeps"]]
    known = [[["a", "dog", "runs"], ["the", "hound"]], [["a", "cat"]], [["a", "cat", "sleeps"], []]]
    whole, own = meteor.meteor(captions, known)
    assert own == pytest.approx([0.402846288358352, 0, 1], abs=1e-12)
    assert whole == pytest.approx(0.41798957554235766, abs=1e-12)
