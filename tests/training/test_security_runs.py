"""Run folders: no foreign file is removed, one trainer at a time, and settings are in their ranges."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from diptych.errors import Busy, ConfigError, DataError
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
from tests.kills import names

SOURCE = Path(__file__).parents[2] / "src" / "diptych"
TRAINERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "contrastive": (train, ContrastiveRecipe),
    "match": (train_matcher, lambda **settings: MatchRecipe(model="mini", **settings)),
    "caption": (train_captioner, lambda **settings: CaptionRecipe(model="mini", **settings)),
    "prompt": (train_prompter, lambda **settings: PromptRecipe(model="mini", **settings)),
}


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
    "search/layout.py": "the table and metadata of an index that is built anew",
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
    removing = {
        path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if _removes(path.read_text("utf-8"))
    }
    assert removing <= set(REMOVES)
    assert _removes("import shutil\nshutil.rmtree(out / 'model')")
