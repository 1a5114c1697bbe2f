"""The command line, run in this process on drawn images: output, exit codes and options."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from diptych.cli import COMMANDS, main
from diptych.cli.renamed import RENAMED, current_spelling
from diptych.data.formats.registry import FORMATS
from tests.broken import break_files
from tests.conftest import TINY

SETTINGS = {name: value for name, value in TINY.items() if name not in ("epochs", "batch_size")}


@dataclass
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `diptych` in a temporary working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        output = capsys.readouterr()
        return Ended(int(ended.value.code or 0), output.out, output.err)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file for a tiny model."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


@pytest.fixture(scope="module")
def model(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny model, trained from the command line."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**SETTINGS, "epochs": 2, "batch_size": 8}))
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "train",
                "contrastive",
                "--config",
                f"{folder}/tiny.yaml",
                "--data",
                f"{scenes}",
                "--output",
                f"{folder}/r",
            ]
        )
    assert not ended.value.code
    return folder / "r"


def recipe_of(out: Path) -> dict:
    return yaml.safe_load((out / "recipe.yaml").read_text())


# data


def test_inspect_prints_the_figures_and_writes_the_contact_sheet(run: Run, scenes: Path, tmp_path: Path) -> None:
    ended = run("data", "inspect", scenes, "--sheet", "sheet.png")
    assert ended.code == 0
    for words in ("images", "48", "captions per image", "5 to 5, median 5", "written: sheet.png"):
        assert words in ended.out
    assert Image.open(tmp_path / "sheet.png").width > 500


def test_inspect_json_prints_only_json_and_names_the_broken_files(run: Run, tmp_path: Path) -> None:
    assert run("data", "draw", "mine", "--count", 30, "--size", 32).code == 0
    broken = break_files(sorted((tmp_path / "mine" / "images").iterdir())[:3])
    ended = run("data", "inspect", "mine", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["images"], report["bad_images"]) == (0, 30, 3)
    names = {Path(example["file"]).name for finding in report["findings"] for example in finding["examples"]}
    assert {path.name for path in broken} <= names
    assert "checking images" in ended.err


def test_draw_writes_a_readable_data_set_of_the_given_size(run: Run, tmp_path: Path) -> None:
    from diptych.data.formats.read import read_pairs

    ended = run("data", "draw", "mine", "--count", 3, "--size", 32, "--seed", 7)
    assert ended.code == 0
    assert "3 images" in ended.out
    pairs = read_pairs(tmp_path / "mine")
    assert len(pairs) == 3
    assert Image.open(pairs[0].image).size == (32, 32)


# train


def test_flags_override_the_configuration_and_other_settings_keep_their_defaults(
    run: Run, config: Path, scenes: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text() + "epochs: 5\nbatch_size: 8\ndropout: 0.25\n")
    ended = run("train", "contrastive", "--config", config, "--data", scenes, "--output", "r", "--epochs", 1)
    assert ended.code == 0, ended.err
    recipe = recipe_of(tmp_path / "r")
    assert (recipe["epochs"], recipe["dropout"], recipe["weight_decay"]) == (1, 0.25, 0.05)
    for words in ("images for training", "text to image", "rsum", f"model: {Path('r') / 'model'}"):
        assert words in ended.out
    assert "epoch 1/1" in ended.err


def test_a_flag_with_its_default_value_still_overrides_the_configuration(
    run: Run, config: Path, scenes: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text() + "epochs: 1\nbatch_size: 8\naugment: light\n")
    words = ("train", "contrastive", "--config", config, "--data", scenes, "--output", "r", "--augment", "none")
    assert run(*words).code == 0
    assert recipe_of(tmp_path / "r")["augment"] == "none"


def test_every_setting_is_a_flag(run: Run, scenes: Path, tmp_path: Path) -> None:
    flags: list[object] = []
    for name, value in {**SETTINGS, "epochs": 1, "batch_size": 8, "freeze": ["image", "text"]}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-"))
        elif isinstance(value, dict):
            flags += [word for key, inner in value.items() for word in (f"{flag}.{key}", inner)]
        elif isinstance(value, list):
            flags += [word for inner in value for word in (flag, inner)]
        else:
            flags += [flag, value]
    ended = run("train", "contrastive", "--data", scenes, "--output", "r", *flags)
    assert ended.code == 0, ended.err
    recipe = recipe_of(tmp_path / "r")
    assert {name: recipe[name] for name in SETTINGS} == SETTINGS
    assert recipe["freeze"] == ["image", "text"]


def test_an_unknown_key_in_the_configuration_is_refused_with_a_suggestion(run: Run, config: Path, scenes: Path) -> None:
    config.write_text(config.read_text() + "epoch: 5\n")
    ended = run("train", "contrastive", "--config", config, "--data", scenes)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("diptych: no setting is called 'epoch'; did you mean 'epochs'?")


def test_an_existing_run_is_kept_unless_it_is_resumed(run: Run, model: Path, scenes: Path) -> None:
    words = ("train", "contrastive", "--config", model / "recipe.yaml")
    ended = run(*words)
    assert ended.code == 1
    assert "already holds a run; resume it" in ended.err
    assert run(*words, "--resume").code == 0


def test_resume_with_the_folder_alone_continues_with_the_recorded_settings(
    run: Run, config: Path, scenes: Path, tmp_path: Path
) -> None:
    words = ("train", "contrastive", "-o", tmp_path / "r")
    ended = run(*words, "--resume")
    assert (ended.code, ended.out) == (1, "")
    assert "contains no run to resume; start it without --resume" in ended.err
    assert run(*words, "--config", config, "--data", scenes, "--epochs", 1, "--batch-size", 8, "--seed", 3).code == 0
    first = recipe_of(tmp_path / "r")
    ended = run(*words, "--resume", "--epochs", 2, "--lr-head", 0.002)
    assert ended.code == 0, ended.err
    assert recipe_of(tmp_path / "r") == first | {"epochs": 2, "lr_head": 0.002}
    ended = run(*words, "--resume", "--seed", 4)
    assert ended.code == 1
    assert "seed is 4, the run has 3" in ended.err
    assert recipe_of(tmp_path / "r") == first | {"epochs": 2, "lr_head": 0.002}
    assert "holds a run of ContrastiveRecipe" in run("train", "prompt", "-o", tmp_path / "r", "--resume").err


def test_a_sweep_prints_one_table_with_a_row_per_run(run: Run, config: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("dropout: [0.0, 0.5]\n")
    words = ("train", "contrastive", "--config", config, "--data", scenes, "--output", "runs", "--epochs", 1)
    ended = run(*words, "--batch-size", 8, "--sweep", "grid.yaml")
    assert ended.code == 0, ended.err
    assert "sweep of grid.yaml" in ended.out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["dropout=0.0", "dropout=0.5"]
    rows = [line for line in ended.out.splitlines() if line.startswith(("│ 0.0", "│ 0.5", "│     0.0", "│     0.5"))]
    assert len(rows) == 2


# eval


def test_eval_retrieval_prints_both_directions_and_json_has_the_same_numbers(
    run: Run, model: Path, scenes: Path
) -> None:
    words = ("eval", "retrieval", model, "--data", scenes, "--split", "all")
    table, scores = run(*words).out, json.loads(run(*words, "--json").out)
    assert "all split: 48 images, 240 captions" in table
    for direction, key in (("text to image", "t2i"), ("image to text", "i2t")):
        row = next(line for line in table.splitlines() if direction in line)
        for k in (1, 5, 10):
            assert f"{scores[f'{key}_r@{k}']:.1f}" in row
    assert scores["left_out"] == 0
    assert f"rsum {scores['rsum']:.1f}" in table


def test_the_val_split_of_data_without_splits_is_the_part_that_training_holds_out(
    run: Run, model: Path, scenes: Path
) -> None:
    from diptych.data.formats.read import read_pairs
    from diptych.training.run import split_for_training

    held_out = split_for_training(read_pairs(scenes), None)[1]
    assert 0 < len(held_out) < 48
    assert held_out.image_ids == read_pairs(scenes).with_val().split("val").image_ids
    ended = run("eval", "retrieval", model, "--data", scenes, "--split", "val")
    assert f"val split: {len(held_out)} images" in ended.out


def test_a_missing_split_is_refused_with_the_available_ones(run: Run, model: Path, scenes: Path) -> None:
    ended = run("eval", "retrieval", model, "--data", scenes)
    assert (ended.code, ended.out) == (1, "")
    assert "no image is in split 'test'; the data set has: " in ended.err
    assert "val (" in ended.err


# find


def test_find_prints_a_ranked_table_and_writes_no_file(run: Run, model: Path, scenes: Path, tmp_path: Path) -> None:
    ended = run("find", model, "a red circle", "--data", scenes, "-k", 3)
    assert ended.code == 0
    assert "“a red circle” among 48 images" in ended.out
    assert ended.out.count("scene-0-") == 3
    assert not list(tmp_path.iterdir())


def test_find_json_has_falling_scores_and_output_names_the_image_grid(
    run: Run, model: Path, scenes: Path, tmp_path: Path
) -> None:
    ended = run("find", model, "a red circle", "--data", scenes, "-k", 4, "-o", "found/best.png", "--json")
    rows = json.loads(ended.out)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert len(rows) == 4
    assert len(rows[0]["captions"]) == 5
    assert Image.open(tmp_path / "found" / "best.png").width > 500


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("data", "draw", Path("file") / "mine", "--count", 1, "--size", 32)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("diptych: 'file")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("find", "nowhere", "a dog", "--data", "SCENES"), "there is no model 'nowhere'"),
        (("find", "MODEL", " ", "--data", "SCENES"), "the text is empty"),
        (("find", "MODEL", "a dog", "--data", "nowhere"), "nowhere"),
        (("data", "inspect", "nowhere"), "nowhere"),
        (("train", "contrastive"), "no data set is given"),
        (("train", "contrastive", "--config", "missing.yaml"), "cannot read the configuration 'missing.yaml'"),
    ],
)
def test_an_expected_error_is_one_sentence_on_standard_error(
    run: Run, model: Path, scenes: Path, words: tuple[str, ...], message: str
) -> None:
    places = {"MODEL": str(model), "SCENES": str(scenes)}
    ended = run(*(places.get(word, word) for word in words))
    assert (ended.code, ended.out) == (1, "")
    assert message in ended.err
    sentence = ended.err[ended.err.index("diptych: ") :]
    assert sentence.count("\n") == 1
    assert "Traceback" not in ended.err


# command lines that cannot be parsed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), 'Did you mean "train"'),
        (("find", "mini", "a dog", "--data", "d", "--outptu", "x"), "Did you mean --output"),
        (("find", "mini", "a dog", "--data", "d", "-k", "0"), "for -k"),
        (("find", "mini"), "diptych find: missing argument TEXT"),
        (("data", "draw", "d", "--count", "many"), "many"),
        (("find", "mini", "a dog", "--data", "d", "-o", "found.txt"), "for -o"),
        (("train", "contrastive", "--objective", "clip"), "info_nce"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_exits_with_2_and_an_explanation(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "")
    assert message in " ".join(ended.err.split())


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupted_command_exits_with_130_and_no_traceback(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "diptych", "data", "draw", str(tmp_path / "mine"), "--count", "100000"]
    # A job that a shell started in the background ignores SIGINT, and its children inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as drawing:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("mine/images/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
        drawing.send_signal(signal.SIGINT)
        try:
            message = drawing.communicate(timeout=30)[1]
        finally:
            drawing.kill()
    assert (drawing.returncode, message) == (130, "\ndiptych: interrupted\n")


def test_help_lists_every_command_in_its_group_and_loads_neither_torch_nor_the_groups(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    shown = " ".join(ended.out.replace("│", "").split())
    for group, commands in COMMANDS.items():
        assert f"─ {group} ─" in ended.out
        assert all(f"{name} {purpose}" in shown for name, (_, purpose) in commands.items())
    assert run().out == ended.out
    code = (
        "import sys; from diptych.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sorted(name for name in sys.modules if name.split('.')[0] in "
        "('torch', 'numpy', 'yaml', 'transformers', 'pyarrow', 'PIL') or name.startswith('diptych.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == ""


def test_the_help_of_a_command_contains_its_line_in_the_list_of_commands(run: Run) -> None:
    for commands in COMMANDS.values():
        for name, (_, purpose) in commands.items():
            assert purpose in " ".join(run(name, "--help").out.split())


def command_names() -> list[list[str]]:
    """The words of every command and subcommand."""
    from diptych.cli import program

    names = []
    for commands in COMMANDS.values():
        for name in commands:
            command = program[name]
            leaves = [[name]] if command.default_command else [[name, leaf] for leaf in command if leaf[0] != "-"]
            names += leaves
    return names


def arguments_of(words: list[str]) -> dict[str, tuple[str, ...]]:
    """All names of each argument of a command, by its first name."""
    from diptych.cli import program

    command = program
    for word in words:
        command = command[word]
    return {argument.name: argument.names for argument in command.assemble_argument_collection()}


def test_every_command_has_a_file_of_its_name() -> None:
    folder = Path(inspect.getfile(main)).parent
    for commands in COMMANDS.values():
        for name, (place, _) in commands.items():
            assert place.partition(":")[0] == name
            assert (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def test_shared_options_have_the_same_names_and_no_other_in_every_command() -> None:
    retired = {"--out", "--k", "--count", "--top", "--worst", "--most", "--keep", "--how", "--grid", "--again"}
    counts_or_keeps = {"data draw": {"--count"}, "data make-prompts": {"--count"}, "caption": {"--keep"}}
    for words in command_names():
        arguments = arguments_of(words)
        names = {name for every in arguments.values() for name in every}
        assert not names & (retired - counts_or_keeps.get(" ".join(words), set())), words
        assert ("--output" in names) == ("-o" in names), words
        assert ("--quiet" in names) == ("-q" in names), words


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["find", "m", "a", "--data", "d", "--grid", "x.png"], ["find", "m", "a", "--data", "d", "--output", "x.png"]),
        (["caption", "p", "--count=3", "--out=c.csv"], ["caption", "p", "-k", "3", "--output=c.csv"]),
        (["data", "audit", "d", "--worst", "5"], ["data", "audit", "d", "-k", "5"]),
        (["data", "draw", "d", "--count", "5"], ["data", "draw", "d", "--count", "5"]),
        (["search", "--k", "3", "--", "--out"], ["search", "-k", "3", "--", "--out"]),
        (["search", "--image", "x.png", "-0"], ["search", "--image", "x.png", "--null"]),
    ],
)
def test_old_flags_are_read_as_their_current_spelling(old: list[str], new: list[str]) -> None:
    assert current_spelling(old) == new


def test_usage_lines_name_the_arguments(run: Run) -> None:
    assert run("search", "--help").out.startswith("Usage: diptych search [OPTIONS] [TEXTS...]")
    assert run("eval", "match", "--help").out.startswith("Usage: diptych eval match --data STR [OPTIONS] [MODEL]")
    assert run("data", "inspect", "--help").out.startswith("Usage: diptych data inspect [OPTIONS] PATH")


def test_help_lists_every_format_of_data_sets(run: Run) -> None:
    words = set(re.findall(r"[\w-]+", run("data", "inspect", "--help").out))
    assert set(FORMATS) <= words


@pytest.mark.parametrize("words", [("serve",), ("train", "contrastive"), ("train", "match")])
def test_a_sequence_has_no_flag_that_empties_it(run: Run, words: tuple[str, ...]) -> None:
    assert "--empty" not in run(*words, "--help").out


def test_every_renamed_flag_leads_to_one_that_its_command_has() -> None:
    leaves = {" ".join(words): arguments_of(words) for words in command_names()}
    for command, flags in RENAMED.items():
        names = {name for every in leaves[command].values() for name in every}
        assert set(flags.values()) <= names, command
        assert not set(flags) & names, command


def test_old_flags_work_and_are_not_shown(run: Run, model: Path, scenes: Path, tmp_path: Path) -> None:
    ended = run("find", model, "a red circle", "--data", scenes, "--k", 2, "--grid", "old.png")
    assert ended.code == 0, ended.err
    assert (tmp_path / "old.png").exists()
    assert "--grid" not in run("find", "--help").out


@pytest.mark.parametrize("words", [["--freeze", "image", "text"], ["--freeze", "image", "--freeze", "text"]])
def test_several_values_are_given_in_a_list_or_by_repeating_the_flag(words: list[str]) -> None:
    from diptych.cli import program

    _, bound, _ = program.parse_args(["train", "contrastive", *words])
    assert bound.arguments["recipe"].freeze == ["image", "text"]


def test_quiet_prints_results_only(run: Run, model: Path, scenes: Path) -> None:
    words = ("find", model, "a red circle", "--data", scenes, "-k", 2, "-o", "grid.png")
    assert "written: grid.png" in run(*words).out
    ended = run(*words, "-q")
    assert ended.code == 0
    assert "written" not in ended.out
    assert ended.out.count("scene-0-") == 2
    assert ended.err == ""


def test_index_refuses_a_source_after_exclude(run: Run, scenes: Path) -> None:
    ended = run("index", "--exclude", "*.tmp", scenes)
    assert ended.code == 1
    assert "put the source first" in ended.err


def test_the_version_is_printed(run: Run) -> None:
    import diptych

    assert run("--version").out.strip() == diptych.__version__


# matching


@pytest.fixture(scope="module")
def matcher(model: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny matcher on the tiny model, trained from the command line."""
    out = tmp_path_factory.mktemp("matcher") / "run"
    settings = ["--val-fraction", "0.25", "--epochs", "2", "--batch-size", "8", "--dim", "16", "--hidden", "16"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "match", "--model", f"{model}", "--data", f"{scenes}", "--output", f"{out}", *settings])
    assert not ended.value.code
    return out


def test_match_prints_a_probability_per_text(run: Run, matcher: Path, scenes: Path) -> None:
    image = next((scenes / "images").iterdir())
    ended = run("match", image, "a red circle", "a blue star", "--model", matcher)
    assert ended.code == 0, ended.err
    assert "a red circle" in ended.out
    assert "P(match)" in ended.out


def test_match_reads_and_writes_tables(run: Run, matcher: Path, scenes: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (scenes / "images").iterdir())[:2]
    (tmp_path / "images").symlink_to(scenes / "images")
    (tmp_path / "pairs.csv").write_text(f"image,caption\n{names[0]},a red circle\n{names[1]},a star\ngone.png,a cat\n")
    ended = run("match", "--pairs", "pairs.csv", "--output", "found.csv", "--model", matcher, "--head", "pair")
    assert ended.code == 0, ended.err
    assert "1 of 3 pairs of 'pairs.csv' have no probability: missing 1 (such as 'gone.png')" in ended.err
    lines = [line.split(",") for line in (tmp_path / "found.csv").read_text().splitlines()]
    assert lines[0] == ["image", "caption", "probability"]
    assert [line[:2] for line in lines[1:]] == [[names[0], "a red circle"], [names[1], "a star"], ["gone.png", "a cat"]]
    assert [0 < float(line[2]) < 1 for line in lines[1:3]] == [True, True]
    assert lines[3][2] == ""


def test_match_without_a_text_or_a_matcher_is_refused_with_the_next_step(
    run: Run, matcher: Path, model: Path, scenes: Path
) -> None:
    image = next((scenes / "images").iterdir())
    assert "no text to match" in run("match", image, "--model", matcher).err
    assert "give an image and a text" in run("match", "--model", matcher).err
    ended = run("match", image, "a dog", "--model", model)
    assert ended.code == 1
    assert "diptych train match" in ended.err


def test_eval_match_prints_every_measure_with_intervals_and_draws_curves(
    run: Run, matcher: Path, scenes: Path, tmp_path: Path
) -> None:
    words = ("eval", "match", matcher, "--data", scenes, "--split", "all", "--resamples", "5")
    ended = run(*words, "--plots", "plots", "--min-precision", "0.4")
    assert ended.code == 0, ended.err
    for word in ("accuracy", "average precision", "brier", "ece", "mixture", "random", "hard", "precision of at least"):
        assert word in ended.out
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        *("precision_recall.png", "reliability.png", "roc.png")
    ]
    with Image.open(tmp_path / "plots" / "reliability.png") as plot:
        assert plot.width > 600
    scores = json.loads(run(*words, "--json").out)
    low, high = scores["hard"]["auc_interval"]
    assert 0 <= low <= scores["hard"]["auc"] <= high <= 1


def test_audit_lists_every_caption_worst_first_and_shows_the_pictures(
    run: Run, matcher: Path, scenes: Path, tmp_path: Path
) -> None:
    ended = run("data", "audit", scenes, "--model", matcher, "-k", "5", "--output", "a.html", "--table", "a.csv")
    assert ended.code == 0, ended.err
    lines = (tmp_path / "a.csv").read_text().splitlines()
    probabilities = [float(line.rsplit(",", 1)[1]) for line in lines[1:]]
    assert len(probabilities) == 240
    assert probabilities == sorted(probabilities)
    page = (tmp_path / "a.html").read_text()
    assert page.count("<img ") == 5
    assert "Captions to review" in page
