from __future__ import annotations

import csv
import doctest
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, DataError, ModelError
from diptych.evaluation.compare import comparison as compare_module
from diptych.evaluation.compare.comparison import Comparison, Measure, Measured, Suite, compare, model_names, read_suite
from diptych.evaluation.compare.cost import bytes_on_disk, memory_peak
from diptych.evaluation.compare.examples import examples
from diptych.evaluation.compare.report_files import markdown, write_report
from diptych.evaluation.compare.report_page import html_report
from diptych.evaluation.compare.suite import word_embeddings
from diptych.evaluation.compare.tables import difference_table, quality_tables
from diptych.evaluation.compare.worker import measure_fresh
from diptych.evaluation.evaluators import evaluate_retrieval
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.bootstrap import Difference
from diptych.models import builder
from diptych.models import dual_encoder as dual

TINY_TEXT = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}


@pytest.mark.parametrize("module", [compare_module])
def test_the_worked_examples_hold(module) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


# the suite


@pytest.fixture(scope="module")
def class_folders(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number, image in enumerate(sorted((scenes / "images").iterdir())[:12]):
        (folder / ("star", "tree", "boat")[number % 3]).mkdir(exist_ok=True)
        shutil.copy(image, folder / ("star", "tree", "boat")[number % 3])
    return folder


@pytest.fixture(scope="module")
def suite(scenes: Path, class_folders: Path) -> Suite:
    return read_suite(str(scenes), split="all", class_data=str(class_folders), prompts="one", limit=20)


def tiny_model(scenes: Path, seed: int) -> dual.DualEncoder:
    torch.manual_seed(seed)
    captions = [caption for row in read_pairs(scenes) for caption in row.captions]
    arguments = {"pretrained": False, "captions": captions, "text_arguments": TINY_TEXT, "dim": 16, "image_size": 32}
    return builder.build("timm/test_resnet", "distilbert", device="cpu", **arguments)


@pytest.fixture(scope="module")
def models(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two dual encoders, the second with a matcher that calls everything as likely as its cosine."""
    from diptych.matching.calibration import Calibration
    from diptych.matching.heads import CosineHead
    from diptych.matching.matcher import Matcher
    from diptych.matching.storage import save_matchers

    folder = tmp_path_factory.mktemp("models")
    encoders = [tiny_model(scenes, seed) for seed in (0, 1)]
    for name, encoder in zip(("plain", "matching"), encoders, strict=True):
        encoder.save(folder / name)
    calibration = Calibration({"cosine": 4.0}, 0.0)
    save_matchers([Matcher(encoders[1], CosineHead(), calibration, name="cosine")], folder / "matching")
    return [str(folder / "plain"), f"with-matcher={folder / 'matching'}"]


@pytest.fixture(scope="module")
def comparison(models: list[str], suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(models, suite, tmp_path_factory.mktemp("out"), device="cpu", fresh=False, resamples=60)


def test_a_saved_suite_is_loaded_unchanged(suite: Suite, tmp_path: Path) -> None:
    suite.save(tmp_path)
    again = Suite.load(tmp_path)
    assert again.key == suite.key
    assert again.subset_rows.tolist() == suite.subset_rows.tolist()
    assert again.labelled_pairs.rows.tolist() == suite.labelled_pairs.rows.tolist()
    assert again.checks.wrong == suite.checks.wrong
    assert again.source == suite.source


def test_other_data_or_settings_change_the_key_of_a_suite(scenes: Path, suite: Suite) -> None:
    keys = {
        suite.key,
        read_suite(str(scenes), split="all", limit=20).key,
        read_suite(str(scenes), split="all", limit=10).key,
        read_suite(str(scenes), split="all", limit=10, seed=1).key,
        read_suite(str(scenes), split="val", limit=10).key,
    }
    assert len(keys) == 5


def test_images_whose_captions_share_words_have_similar_word_embeddings(scenes: Path) -> None:
    pairs = read_pairs(scenes)
    images, texts = word_embeddings(pairs)
    owner = pairs.flat_captions()[1]
    ranks = (texts @ images.T >= np.einsum("nd,nd->n", texts, images[owner])[:, None]).sum(axis=1)
    assert np.median(ranks) <= 3
    assert np.allclose(np.linalg.norm(images, axis=1), 1)


def test_a_comparison_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="as `data`, labelled images as `class_data`"):
        read_suite(None)


# names


def test_names_are_as_short_as_uniqueness_allows() -> None:
    assert list(model_names(["runs/a/model", "other/a/model", "mini"])) == ["runs/a", "other/a", "mini"]
    with pytest.raises(ConfigError, match="two models are named 'x'"):
        model_names(["x=a", "x=b"])
    with pytest.raises(ConfigError, match="no model is given"):
        model_names([])


# measuring


def test_measurements_equal_those_of_the_evaluators(comparison: Comparison, scenes: Path) -> None:
    pairs = read_pairs(scenes)
    for model in comparison.models:
        expected, _ = evaluate_retrieval(dual.load(model.model, "cpu"), pairs)
        assert model.summary["retrieval"] == expected.to_dict()
        for measure in comparison.group("retrieval"):
            assert measure.values[model.name] == pytest.approx(expected.to_dict()[measure.key])
            low, high = measure.intervals[model.name]
            assert low <= measure.values[model.name] <= high


def test_every_group_is_measured_and_missing_abilities_are_reported(comparison: Comparison) -> None:
    assert {measure.group for measure in comparison.measures} == {"retrieval", "classes", "matching", "checks"}
    plain, matching = comparison.models
    assert plain.summary["matching"]["calibrated"] is False
    assert matching.summary["matching"]["calibrated"] is True
    assert 0 <= matching.summary["matching"]["sets"]["mixture"]["ece"] <= 1
    assert set(plain.summary["absent"]) == {"matcher", "captioner"}
    assert set(matching.summary["absent"]) == {"captioner"}


def test_costs_are_those_of_the_model(comparison: Comparison) -> None:
    for model in comparison.models:
        cost, encoder = model.summary["cost"], dual.load(model.model, "cpu")
        assert cost["parameters"] == sum(weight.numel() for weight in encoder.model.parameters())
        assert cost["image_parameters"] + cost["text_parameters"] == cost["parameters"]
        assert cost["bytes_on_disk"] == sum(f.stat().st_size for f in Path(model.model).rglob("*") if f.is_file())
        assert min(cost["images_per_second"], cost["texts_per_second"], cost["load_seconds"]) > 0
        assert "peak_memory" not in cost  # this process has done much else


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert bytes_on_disk(tmp_path) == 100


def test_measurements_are_reused_until_the_model_changes(
    models: list[str], suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models[0], tmp_path / "model")
    first = compare([str(tmp_path / "model")], suite, tmp_path / "out", device="cpu", fresh=False, resamples=5)
    kept = [path for path in (tmp_path / "out" / "measured").iterdir() if not path.name.startswith("suite")]
    written = (kept[0] / "measured.json").stat().st_mtime_ns
    again = compare([str(tmp_path / "model")], suite, tmp_path / "out", device="cpu", fresh=False, resamples=5)
    assert (kept[0] / "measured.json").stat().st_mtime_ns == written
    assert again.models[0].summary == first.models[0].summary
    (tmp_path / "model" / "README.md").write_text("another")
    compare([str(tmp_path / "model")], suite, tmp_path / "out", device="cpu", fresh=False, resamples=5)
    assert len(list((tmp_path / "out" / "measured").iterdir())) == len(kept) + 1


def test_a_model_that_fails_is_reported_and_the_others_are_measured(
    models: list[str], suite: Suite, tmp_path: Path
) -> None:
    compared = compare([models[0], str(tmp_path / "none")], suite, tmp_path, device="cpu", fresh=False, resamples=5)
    assert [model.name for model in compared.models] == ["plain"]
    assert "there is no model" in compared.failed["none"]
    assert "none could not be measured" in markdown(compared)
    with pytest.raises(ModelError, match="no model could be measured"):
        compare([str(tmp_path / "none")], suite, tmp_path, device="cpu", fresh=False)


def test_the_last_output_of_a_process_that_dies_is_reported(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(ModelError, match="code 3: out of memory"):
        measure_fresh("mini", tmp_path / "suite", tmp_path / "found")


def test_an_error_during_a_step_of_the_process_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    content = ({"begins": "encoding", "total": 2}, {"step": 1}, {"error": "DataError", "says": "it is gone"})
    failing = tmp_path / "python"
    failing.write_text(
        "#!/bin/sh\n" + "".join(f"printf 'loading... \\036%s\\n' '{json.dumps(line)}'\n" for line in content)
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(DataError, match="it is gone"):
        measure_fresh("mini", tmp_path / "suite", tmp_path / "found")


# the report


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return html_report(comparison, "diptych compare plain with-matcher --data scenes")


def test_the_page_is_self_contained_and_shows_all_results(page: str, comparison: Comparison) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    for words in (
        "Retrieval",
        "Classification",
        "linear probe",
        "Matching",
        "Compositional",
        "Cost",
        "Differences",
        "Example queries",
    ):
        assert words in page
    for words in ("Quality against speed", "Reliability of the matchers", "Confusion matrices", "Provenance"):
        assert words in page
    for measure in comparison.measures:
        for name in comparison.names:
            assert f"{measure.values[name]:.{measure.digits}f}" in page
    assert "diptych compare plain with-matcher --data scenes" in page


def test_hostile_captions_and_names_are_escaped(scenes: Path, models: list[str], tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script> a red star and a "blue" heart & more |'
    images = sorted((scenes / "images").iterdir())[:4]
    for image in images:
        shutil.copy(image, tmp_path)
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((image.name, nasty) for image in images)])
    suite = read_suite(str(tmp_path), split="all")
    compared = compare([f"<b>|={models[0]}"], suite, tmp_path / "out", device="cpu", fresh=False, resamples=5)
    page = html_report(compared)
    assert "<script>" not in page
    assert "<b>|" not in page
    assert "&lt;b&gt;|" in page
    assert "\\|" in markdown(compared)


def test_examples_show_each_model_for_the_same_caption(comparison: Comparison) -> None:
    sections = examples(comparison, drawn=3, disputed=2)
    assert [len(chosen) for chosen in sections.values()] == [3, 2]
    every = [example for chosen in sections.values() for example in chosen]
    assert len({example.row for example in every}) == 5
    for example in every:
        assert [result.model for result in example.results] == comparison.names
        for result in example.results:
            assert (result.rank <= len(result.rows)) == (example.row in result.rows)


def test_markdown_json_and_csv_hold_the_same_numbers(comparison: Comparison, tmp_path: Path) -> None:
    files = write_report(comparison, tmp_path / "report")
    assert [file.name for file in files] == ["report.html", "report.md", "report.json", "report.csv"]
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    text = (tmp_path / "report" / "report.md").read_text()
    with (tmp_path / "report" / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    for measure in content["measures"]:
        for name, value in measure["values"].items():
            row = next(line for line in lines if (line["model"], line["measure"]) == (name, measure["key"]))
            assert float(row["value"]) == pytest.approx(value)
        assert measure["title"] in text
        assert len(measure["differences"]) == 1


def test_the_best_and_those_not_significantly_worse_are_marked(comparison: Comparison) -> None:
    table = quality_tables(comparison)[0]
    for column, measure in enumerate(comparison.group("retrieval"), 1):
        cells = {row[0].text: row[column] for row in table.rows}
        assert cells[measure.best].best
        assert all(cell.tied == (name != measure.best and measure.tied(name)) for name, cell in cells.items())
    differences = difference_table(comparison)
    assert differences is not None
    first = comparison.group("retrieval")[0]
    cell = differences.rows[0][1]
    assert cell.best == first.difference(*comparison.names).significant
    other = first.difference(*reversed(comparison.names))
    assert other.value == -first.difference(*comparison.names).value


def test_a_check_that_is_won_without_the_image_does_not_lead(suite: Suite) -> None:
    """`blind` has 63%, but the same without the picture; `close` and `seeing` differ by chance; `behind` is behind."""
    values = {"blind": 63.0, "seeing": 60.0, "close": 59.0, "behind": 55.0}
    unseen = {"blind": 63.0, "seeing": 50.0, "close": 50.0, "behind": 50.0}
    models = []
    for name in values:
        kinds = [{"kind": "relation", "blind": unseen[name], "checks": 9}]
        models.append(Measured(name, name, {"checks": {"kinds": kinds}}))
    real = {("seeing", "behind"), ("close", "behind"), ("blind", "behind")}
    differences = {
        (first, two): Difference(values[first] - values[two], 0.5 if (first, two) in real else -1, 9)
        for first, two in itertools.combinations(values, 2)
    }
    intervals = {name: (value - 2, value + 2) for name, value in values.items()}
    measure = Measure("relation", "checks", "relation % (of 9)", 1, values, intervals, differences, 9)
    table = quality_tables(Comparison(suite, tuple(models), (measure,), {}))[0]
    marks = {row[0].text: (row[1].best, row[1].tied) for row in table.rows}
    nothing = (False, False)
    assert marks == {"blind": nothing, "seeing": (True, False), "close": (False, True), "behind": nothing}


@pytest.fixture
def _without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """METEOR takes its time to start."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    java.java.cache_clear()
    yield
    java.java.cache_clear()


@pytest.mark.usefixtures("_without_java")
def test_captioners_are_measured_on_their_captions(scenes: Path, tmp_path: Path) -> None:
    captioner = tiny_captioner(scenes, tmp_path / "captioner")
    suite = read_suite(str(scenes), split="all", limit=6)
    compared = compare([str(captioner)], suite, tmp_path / "out", device="cpu", fresh=False, resamples=5)
    model = compared.models[0]
    assert "encoder" in model.summary["absent"]
    assert set(model.summary["captions"]["written"]) == set(suite.subset.image_ids)
    columns = {measure.key for measure in compared.group("captions")}
    assert columns - {"spice"} == {"cider_d", "rouge_l"}  # BLEU and METEOR are not means over images
    assert model.summary["captions"]["captions_per_second"] > 0
    assert "Captions side by side" in html_report(compared)


def tiny_captioner(scenes: Path, folder: Path) -> Path:
    """A ViT-GPT2 of random weights with a vocabulary of the drawn pictures' captions, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    words = sorted({word for row in read_pairs(scenes) for text in row.captions for word in text.lower().split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    decoder = GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(image_size=32, patch_size=8, **sizes), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    torch.manual_seed(0)
    VisionEncoderDecoderModel(config=config).save_pretrained(folder)
    return folder


def test_the_command_measures_in_a_separate_process_and_writes_the_report(
    comparison: Comparison,
    models: list[str],
    scenes: Path,
    class_folders: Path,
    tmp_path: Path,
    run: Callable[..., str],
) -> None:
    words = ["--data", scenes, "--split", "all", "--class-data", class_folders, "--prompts", "one", "--most", 20]
    output = run("compare", models[0], *words, "--resamples", 20, "--out", tmp_path / "out", "--device", "cpu")
    assert "Retrieval" in output
    assert str(tmp_path / "out" / "report.html") in output
    content = json.loads((tmp_path / "out" / "report.json").read_text())["models"]["plain"]
    here = comparison.models[0].summary
    for group in ("retrieval", "classes", "matching", "checks"):
        assert content[group] == here[group]
    if memory_peak() is not None:
        assert 0 < content["cost"]["peak_memory"] < 2**32


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    from diptych.cli import main

    def command(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return command
