"""Resuming a run: with its own settings and data, or with the few settings that may change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError
from diptych.models import builder
from diptych.training.caption.config import CaptionRecipe
from diptych.training.caption.train import train_captioner
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.match.config import MatchRecipe
from diptych.training.match.train import train_matcher
from diptych.training.prompt.config import PromptRecipe
from diptych.training.prompt.train import train_prompter
from diptych.training.resume import CHANGEABLE, recorded_recipe
from diptych.training.run_settings import RunSettings
from tests.conftest import TINY
from tests.model_directories import make_text_encoder

Make = Callable[..., ContrastiveRecipe]
KINDS = ("contrastive", "match", "caption", "prompt")


class InterruptedHereError(Exception):
    """Stands for a kill in the middle of a run."""


def stop_after(steps: int) -> Callable[..., Any]:
    """A progress report that raises after so many training steps of one epoch."""

    def progress(items: Any, total: int, label: str) -> Any:
        for number, item in enumerate(items):
            if label.startswith("epoch") and number == steps:
                raise InterruptedHereError
            yield item

    return progress


@pytest.fixture(scope="module")
def encoder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights."""
    torch.manual_seed(0)
    settings = {name: TINY[name] for name in ("dim", "pretrained", "text_arguments", "image_size", "crop", "device")}
    folder = tmp_path_factory.mktemp("encoder")
    captions = read_pairs(scenes).flat_captions()[0]
    builder.build(TINY["image_tower"], TINY["text_tower"], captions=captions, **settings).save(folder)
    return folder


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_encoder(tmp_path_factory.mktemp("text") / "encoder")


@pytest.fixture
def start(
    encoder: Path, text_encoder: Path, scenes: Path, tmp_path: Path
) -> Callable[..., tuple[Callable[..., Any], Any]]:
    """A maker of the trainer and a tiny recipe of each kind."""
    shared = {"data": str(scenes), "out": str(tmp_path / "run"), "device": "cpu", "val_fraction": 0.25, "epochs": 2,
              "batch_size": 8, "save_steps": 1}  # fmt: skip
    small = {"model": str(encoder), **shared}
    kinds: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
        "contrastive": (train, ContrastiveRecipe, {**TINY, **shared}),
        "match": (train_matcher, MatchRecipe, {**small, "heads": ["pair"], "hidden": 8, "hard": 1}),
        "caption": (
            train_captioner,
            CaptionRecipe,
            {**small, "dim": 16, "layers": 1, "image_layers": 0, "heads": 2, "views": 2, "beams": 1, "min_count": 1},
        ),
        "prompt": (
            train_prompter,
            PromptRecipe,
            {**small, "text_encoder": str(text_encoder), "hidden": 8, "library": 0},
        ),
    }

    def make(kind: str, **settings: Any) -> tuple[Callable[..., Any], Any]:
        trainer, recipe, defaults = kinds[kind]
        return trainer, recipe(**{**defaults, **settings})

    return make


def files(out: str | Path) -> dict[str, bytes]:
    """The content of every file of a run, except of the note of who holds the lock."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and path.name != "diptych-owner.json"
    }


def interrupted(trainer: Callable[..., Any], recipe: Any, steps: int = 2) -> None:
    with pytest.raises(InterruptedHereError):
        trainer(recipe, progress=stop_after(steps))


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_that_may_not_change_is_refused_by_name_with_both_values_and_nothing_is_written(
    kind: str, start: Callable[..., Any]
) -> None:
    trainer, recipe = start(kind)
    interrupted(trainer, recipe)
    before = files(recipe.out)
    other = {"batch_size": 6, "seed": 3, "val_fraction": 0.5, "dropout": 0.0}
    for name, value in other.items():
        _, changed = start(kind, **{name: value})
        with pytest.raises(ConfigError, match=rf"`{name}` is {value!r}, the run has {getattr(recipe, name)!r}"):
            trainer(changed, resume=True)
    assert files(recipe.out) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_not_resumed_on_other_data_and_nothing_is_written(
    kind: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    from diptych.data.samples.library import draw_scenes

    trainer, recipe = start(kind)
    interrupted(trainer, recipe)
    before = files(recipe.out)
    _, changed = start(kind, data=str(draw_scenes(tmp_path / "other", count=40, size=64)))
    with pytest.raises(ConfigError, match=r"is not what the run .* was started with: it had \d+ training and"):
        trainer(changed, resume=True)
    assert files(recipe.out) == before


def test_a_run_is_resumed_on_data_that_were_moved_but_not_on_changed_captions(
    start: Callable[..., Any], scenes: Path, tmp_path: Path
) -> None:
    import shutil

    trainer, recipe = start("contrastive")
    interrupted(trainer, recipe)
    moved = Path(shutil.copytree(scenes, tmp_path / "moved"))
    _, changed = start("contrastive", data=str(moved))
    (captions,) = (path for path in moved.iterdir() if path.is_file() and "caption" in path.name)
    text = captions.read_text()
    captions.write_text(text.replace("circle", "disc"))
    with pytest.raises(ConfigError, match="with other ids or captions"):
        trainer(changed, resume=True)
    captions.write_text(text)
    assert trainer(changed, resume=True).outcome.steps == 8


@pytest.mark.parametrize("kind", KINDS)
def test_learning_rates_that_change_at_resume_are_applied_and_recorded(kind: str, start: Callable[..., Any]) -> None:
    trainer, recipe = start(kind)
    interrupted(trainer, recipe)
    rates = {name: 0.0 for name in vars(recipe) if name.startswith("lr")}
    _, stopped = start(kind, **rates, weight_decay=0.0, ema=0.0)
    phase = {"match": "pair", "caption": "words"}.get(kind, "")
    checkpoint = Path(recipe.out) / phase / "checkpoint.pt"
    before = torch.load(checkpoint, weights_only=True)
    trainer(stopped, resume=True)
    after = torch.load(checkpoint, weights_only=True)
    assert json.loads(after["numbers"])["step"] > json.loads(before["numbers"])["step"]
    for name, weight in before["state"].items():
        if not name.startswith("buffer:"):
            assert torch.equal(weight, after["state"][name]), name
    assert not after["average"]
    recorded = yaml.safe_load((Path(recipe.out) / "recipe.yaml").read_text())
    assert {recorded[name] for name in rates} == {0.0}
    record = json.loads((Path(recipe.out) / "diptych-run.json").read_text())
    changes = {change["setting"]: (change["before"], change["after"]) for change in record["changes"]}
    assert {name: changes[name] for name in rates} == {name: (getattr(recipe, name), 0.0) for name in rates}
    assert {change["phase"] for change in record["changes"]} == {phase}


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.0), (0.0, 0.9), (0.9, 0.5)])
def test_the_moving_average_is_switched_on_off_or_changed_at_resume(tiny: Make, before: float, after: float) -> None:
    recipe = tiny(ema=before, epochs=1, save_steps=1)
    interrupted(train, recipe)
    train(tiny(ema=after, epochs=2, save_steps=1), resume=True)
    saved = torch.load(Path(recipe.out) / "checkpoint.pt", weights_only=True)
    assert bool(saved["average"]) == bool(after)
    assert all(name in saved["state"] for name in saved["average"])


def test_more_epochs_continue_a_finished_run_and_the_model_card_says_so(tiny: Make) -> None:
    train(tiny(epochs=1))
    result = train(tiny(epochs=6, lr_head=2e-2), resume=True)
    assert result.outcome.steps == 24
    assert result.outcome.best_epoch > 0, "no later epoch was better, so that the card is the first one"
    model_card = (result.model / "README.md").read_text()
    assert "epochs: 6" in model_card
    assert "epochs was 1 up to step 4, and 6 from there on" in model_card
    metadata = json.loads((result.model / "diptych.json").read_text())
    assert len(metadata["changes"]) == 2


def test_a_run_whose_settings_did_not_change_records_no_change(tiny: Make) -> None:
    interrupted(train, tiny())
    result = train(tiny(), resume=True)
    assert "resumed" not in (result.model / "README.md").read_text()
    assert "changes" not in json.loads((result.model / "diptych.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_resume_without_a_checkpoint_is_an_error_that_leaves_no_trace(
    kind: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    trainer, recipe = start(kind)
    with pytest.raises(ConfigError, match="contains no checkpoint to resume from; start the run without `resume`"):
        trainer(recipe, resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="contains no checkpoint"):
        trainer(recipe, resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_run_that_was_killed_before_its_first_checkpoint_is_started_again(tiny: Make) -> None:
    recipe = tiny(epochs=1, freeze=["image"])

    def progress(items: Any, total: int, label: str) -> Any:
        raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        train(recipe, progress=progress)
    with pytest.raises(ConfigError, match="no checkpoint to resume from; start the run without `resume`"):
        train(recipe, resume=True)
    train(recipe)


def test_a_run_can_be_resumed_from_its_first_step_on(tiny: Make) -> None:
    recipe = tiny(epochs=1)
    interrupted(train, recipe, steps=0)
    assert train(recipe, resume=True).outcome.steps == 4


def test_an_interrupted_run_of_heads_is_resumed_with_the_recipe_of_the_whole_run(tiny: Make) -> None:
    recipe = tiny(head_epochs=3, epochs=1)
    interrupted(train, recipe, steps=0)
    assert recorded_recipe(ContrastiveRecipe, recipe.out) == recipe
    assert train(recipe, resume=True).outcome.steps == 4
    assert recorded_recipe(ContrastiveRecipe, recipe.out) == recipe


def test_the_recorded_recipe_of_a_moved_run_names_the_new_folder(tiny: Make, tmp_path: Path) -> None:
    interrupted(train, tiny())
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    recipe = recorded_recipe(ContrastiveRecipe, moved)
    assert recipe == tiny(out=str(moved))
    train(recipe, resume=True)
    with pytest.raises(ConfigError, match="holds a run of ContrastiveRecipe, not of MatchRecipe"):
        recorded_recipe(MatchRecipe, moved)


def test_every_setting_that_may_change_is_a_setting() -> None:
    recipes: tuple[type[RunSettings], ...] = (ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe)
    assert set().union(*(recipe.__dataclass_fields__ for recipe in recipes)) >= CHANGEABLE


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_of_several_processes_is_refused_before_anything_is_written(
    kind: str, name: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "2")
    trainer, recipe = start(kind)
    with pytest.raises(ConfigError, match=f"{name} is 2, so this is one of 2 processes"):
        trainer(recipe)
    assert not (tmp_path / "run").exists()


def test_a_world_of_one_process_trains(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    train(tiny(epochs=1))


def test_a_checkpoint_is_due_after_a_time_as_well_as_after_steps(tiny: Make) -> None:
    for minutes, step in ((0.0, 2), (1000.0, 0)):
        recipe = tiny(epochs=1, save_steps=1000, save_minutes=minutes, out=str(tiny().out) + str(minutes))
        interrupted(train, recipe)
        saved = torch.load(Path(recipe.out) / "checkpoint.pt", weights_only=True)
        assert json.loads(saved["numbers"])["step"] == step
