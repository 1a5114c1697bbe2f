"""No work is lost and no foreign file is removed: publications killed at every step, and folders with other files."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.errors import Busy, ConfigError, DataError
from diptych.images.contact_sheet import save_contact_sheet
from diptych.models.checkpoints import model_directory
from diptych.runtime.atomic import in_place, new_file, new_folder, replaced_folder, restore, write_bytes, write_text
from diptych.runtime.locks import held
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.match.config import MatchRecipe
from diptych.training.match.train import train_matcher
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter
from diptych.training.ranges import LIMITS, check_limits, numeric_settings
from tests.kills import is_ours, loaded, names, publish

SOURCE = Path(__file__).parents[2] / "src" / "diptych"
TRAINERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "contrastive": (train, ContrastiveRecipe),
    "match": (train_matcher, lambda **settings: MatchRecipe(model="mini", **settings)),
    "caption": (train_captioner, lambda **settings: CaptionRecipe(model="mini", **settings)),
    "prompt": (train_prompter, lambda **settings: PromptRecipe(model="mini", **settings)),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
def test_a_publication_or_write_killed_at_any_step_twice_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "kills.py"
    done = subprocess.run([sys.executable, script, tmp_path], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    steps, found, steps_of_file = map(int, done.stdout.split())
    assert (steps > 8, found, steps_of_file > 2) == (True, 2, True)


def test_an_error_while_a_model_is_written_leaves_only_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path / "model", "old")
    with pytest.raises((IsADirectoryError, PermissionError)), replaced_folder(tmp_path / "model", is_ours) as fresh:
        (fresh / "card").write_text(fresh.read_text())
    assert loaded(tmp_path / "model") == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_that_diptych_did_not_write_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="model' was not made by diptych"):
        publish(tmp_path / "model", "new")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\0b", "x" * 5_000])
def test_a_path_without_siblings_resolves_to_itself(name: str) -> None:
    assert in_place(Path(name)) == Path(name)


def test_a_model_that_a_kill_left_aside_is_loaded_from_there_and_restored_by_the_next_run(tmp_path: Path) -> None:
    publish(tmp_path / "run" / "model", "old")
    write_text(tmp_path / "run" / "model" / "modules.json", "[]")
    (tmp_path / "run" / "model").rename(tmp_path / "run" / ".model-old.diptych")
    for name in ("run", "run/model"):
        assert model_directory(tmp_path / name) == tmp_path / "run" / ".model-old.diptych"
    restore(tmp_path / "run" / "model", is_ours)
    assert model_directory(tmp_path / "run") == tmp_path / "run" / "model"


def test_hidden_folders_of_the_user_stay_at_any_age(tmp_path: Path) -> None:
    for name in (".model-old", ".model-backup", "model.new", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    publish(tmp_path / "model", "old")
    publish(tmp_path / "model", "new")
    with new_folder(tmp_path / "model-2") as fresh:
        (fresh / "a").write_text("a")
    assert all((tmp_path / name / "mine.txt").exists() for name in (".model-old", ".model-backup", "model.new"))


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_model_that_is_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "old")
    (tmp_path / "model").symlink_to("elsewhere")
    publish(tmp_path / "model", "new")
    assert (loaded(tmp_path / "model"), loaded(tmp_path / "elsewhere")) == ("new", "old")
    assert names(tmp_path) == ["elsewhere", "model"]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions there")
def test_a_written_file_has_default_permissions_or_those_of_the_file_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o640)
    write_text(tmp_path / "plain", "y")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_a_device_is_written_and_not_replaced_and_a_link_stays_a_link(tmp_path: Path) -> None:
    with new_file("/dev/null") as path:
        path.write_text("x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    (tmp_path / "link").symlink_to("file")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_contact_sheet_replaces_a_contact_sheet_and_never_a_photograph(tmp_path: Path, suffix: str) -> None:
    photograph, sheet = tmp_path / f"photo.{suffix}", tmp_path / f"sheet.{suffix}"
    Image.new("RGB", (8, 8), "red").save(photograph)
    before = photograph.read_bytes()
    with pytest.raises(ConfigError, match="exists and was not made by diptych"):
        save_contact_sheet(Image.new("RGB", (4, 4)), photograph)
    assert photograph.read_bytes() == before
    for side in (4, 6):
        save_contact_sheet(Image.new("RGB", (side, side)), sheet)
        with Image.open(sheet) as image:
            assert image.size == (side, side)


# run folders


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("name", ["model", "checkpoint.pt", "recipe.yaml", "heads"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_files_of_the_user_is_refused_before_training_starts(
    tmp_path: Path, kind: str, name: str, resume: bool
) -> None:
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    (out / name / "thesis.txt").write_text("mine")
    trainer, recipe = TRAINERS[kind]
    with pytest.raises(ConfigError, match=rf"out' holds '{name}', which was not written by a training run of diptych"):
        trainer(recipe(data="nowhere", out=str(out)), resume=resume)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [name, f"{name}/thesis.txt"]


def test_a_run_that_fails_at_once_leaves_no_trace_and_other_files_stay(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(ContrastiveRecipe(data=str(tmp_path / "nowhere"), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        train(ContrastiveRecipe(data=str(tmp_path / "nowhere"), out=str(tmp_path / "notes")))
    assert names(tmp_path / "notes") == ["notes.txt"]


def test_a_run_of_another_recipe_is_refused_with_and_without_resume(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "diptych-run.json").write_text('{"recipe": "ContrastiveRecipe"}')
    for resume in (False, True):
        with pytest.raises(ConfigError, match="holds a run of ContrastiveRecipe, not of MatchRecipe"):
            train_matcher(MatchRecipe(data="x", model="mini", out=str(tmp_path)), resume=resume)


def test_a_published_model_is_a_run_even_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "diptych-run.json").write_text('{"recipe": "ContrastiveRecipe"}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "diptych.json").write_text("{}")
    with pytest.raises(ConfigError, match="already holds a run; resume it"):
        train(ContrastiveRecipe(data="x", out=str(tmp_path)))


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_second_trainer_in_a_folder_is_refused_and_the_first_is_named(tmp_path: Path, kind: str) -> None:
    trainer, recipe = TRAINERS[kind]
    with (
        held(tmp_path / "diptych-run.lock", tmp_path / "diptych-owner.json", "is training"),
        pytest.raises(Busy, match=rf"process {os.getpid()} on .* is training in '.*'; try again when it is done"),
    ):
        trainer(recipe(data="x", out=str(tmp_path)), resume=True)


def _hold(folder: Path, began: Any) -> None:
    with held(folder / "diptych-run.lock", folder / "diptych-owner.json", "is training"):
        began.set()
        signal.pause()


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="no such signals there")
def test_a_killed_owner_frees_its_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    began = context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, began))
    owner.start()
    assert began.wait(30)
    with pytest.raises(Busy, match=f"process {owner.pid} "), _lock(tmp_path):
        pass
    owner.kill()
    owner.join()
    with _lock(tmp_path):
        pass


def _lock(folder: Path) -> Any:
    return held(folder / "diptych-run.lock", folder / "diptych-owner.json", "is training")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"x"', '{"pid": [], "host": 1}', "\x00" * 100, "[" * 100_000], ids=range(7)
)
def test_a_damaged_owner_file_does_no_harm(tmp_path: Path, content: str) -> None:
    with _lock(tmp_path):
        (tmp_path / "diptych-owner.json").write_text(content)
        with pytest.raises(Busy, match="another process is training"), _lock(tmp_path):
            pass


# settings


@pytest.mark.parametrize("recipe", [ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe])
def test_every_number_of_every_recipe_has_a_range_and_its_default_is_in_it(recipe: Any) -> None:
    assert numeric_settings(recipe) - set(LIMITS) == set()
    check_limits(recipe())


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_number_out_of_range_is_refused_by_name_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    trainer, recipe = TRAINERS[kind]
    names_of_numbers = {field.name for field in fields(recipe())} & numeric_settings(type(recipe()))
    for name in sorted(names_of_numbers):
        low, high = LIMITS[name]
        wrong = [low - 1, high * 2 + 1]
        wrong += [] if isinstance(low, int) else [float("nan"), float("inf"), -float("inf")]
        for value in wrong:
            with pytest.raises(ConfigError, match=rf"^{name} is .*must be at least .* and at most"):
                trainer(recipe(data="x", out=str(tmp_path / "run"), **{name: value}))
    assert names(tmp_path) == []


def test_numbers_in_architecture_arguments_are_bounded_too(tmp_path: Path) -> None:
    for value in (10**12, float("nan")):
        with pytest.raises(ConfigError, match=r"image_arguments\.depth is"):
            train(ContrastiveRecipe(data="x", out=str(tmp_path / "run"), image_arguments={"depth": value}))


@pytest.mark.parametrize("value", [1e-300, -20, float("nan"), float("inf"), 10**30, "1"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "beams", "count", "max_tokens", "no_repeat"])
def test_a_generation_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    from diptych.captioning.strategies import GenerationConfig

    with pytest.raises(ConfigError, match=rf"^{name} is .*must be at least"):
        GenerationConfig(method="nucleus", **{name: value})


# the whole source

REMOVES = {  # module -> what it may remove or replace: only what it made, under a name of its own
    "runtime/atomic.py": "temporary names, and folders that a predicate knows",
    "training/run.py": "its own marker and lock",
    "models/onnx/text_graph.py": "a damaged entry of the cache folder",
    "data/downloads.py": "its own `.part`",
    "data/archives.py": "its own `.part`",
    "data/hub_datasets.py": "the JSON that it unpacked",
    "export/quantization.py": "a graph in a folder that is being written",
}


def _removes(code: str) -> bool:
    if not any(word in code for word in ("rmtree", "move", "unlink", "replace(", "rename", "rmdir")):
        return False
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    paths = {ast.unparse(call.func) for call in calls if len(call.args) == 1 and not call.keywords}
    paths -= {"store.replace", "self.store.replace"}  # of rows
    return any(
        name in ("shutil.rmtree", "shutil.move", "os.remove", "os.unlink", "os.replace", "os.rename", "os.removedirs")
        or name.endswith((".unlink", ".rename", ".rmdir"))
        or (name.endswith(".replace") and name in paths)
        for name in names
    )


def test_only_the_listed_modules_remove_or_replace_files() -> None:
    found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if _removes(path.read_text("utf-8"))}
    assert found <= set(REMOVES)
    assert _removes("import shutil\nshutil.rmtree(out / 'model')")
