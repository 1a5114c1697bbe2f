"""The settings that the recipes share: one base class, help texts for every flag, and files of older runs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from docstring_parser import parse_from_object
from safetensors.torch import save_file
from torch import nn

from diptych.errors import ConfigError
from diptych.training.caption.config import CaptionRecipe
from diptych.training.checkpoint import load_weights, save_weights
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.match.config import MatchRecipe
from diptych.training.prompt.config import PromptRecipe
from diptych.training.recipe_files import make, to_yaml
from diptych.training.run_settings import RunSettings

RECIPES = (ContrastiveRecipe, MatchRecipe, CaptionRecipe, PromptRecipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_has_a_help_text_where_cyclopts_reads_it(recipe: type[RunSettings]) -> None:
    classes = (recipe, RunSettings)  # cyclopts reads the docstrings of a class and of its bases
    described = {
        parameter.arg_name for of in classes for parameter in parse_from_object(of).params if parameter.description
    }
    assert {field.name for field in fields(recipe)} <= described


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_shared_settings_and_takes_them_by_name_alone(recipe: type[RunSettings]) -> None:
    assert {field.name for field in fields(RunSettings)} <= {field.name for field in fields(recipe)}
    with pytest.raises(TypeError):
        recipe("photos")  # type: ignore[misc]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_read_from_its_own_yaml_is_the_same(recipe: type[RunSettings]) -> None:
    settings = recipe(data="photos", epochs=3, ema=0.5)
    assert make(recipe, yaml.safe_load(to_yaml(settings))) == settings


def test_weights_load_whether_they_were_saved_as_a_module_or_as_tensors(tmp_path: Path) -> None:
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(layer, tmp_path / "module.safetensors")
    save_file(dict(layer.state_dict()), tmp_path / "tensors.safetensors")
    for name in ("module", "tensors"):
        nn.init.zeros_(other.weight)
        load_weights(other, tmp_path / f"{name}.safetensors")
        assert torch.equal(other.weight, layer.weight)


def test_missing_weights_are_an_error_that_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing or damaged; remove the folder"):
        load_weights(nn.Linear(3, 2), tmp_path / "best.safetensors")
