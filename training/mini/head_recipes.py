"""What the scripts that train a head of `mini` share: their arguments, and the recipe of a configuration file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeVar

from diptych.training.recipe_files import make, read_yaml
from diptych.training.run import has_checkpoint
from diptych.training.run_settings import RunSettings

CONFIGS = Path(__file__).parents[2] / "configs"

Recipe = TypeVar("Recipe", bound=RunSettings)


def read_recipe(
    recipe: type[Recipe], config: str, doc: str | None, out: str, **settings: object
) -> tuple[Recipe, bool]:
    """The recipe of a script that trains a head on the bundled model, and whether it resumes an interrupted run.

    Args:
        recipe: class of the recipe.
        config: file name in `configs`.
        doc: docstring of the script.
        out: run folder by default.
        settings: settings that replace those of the file.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Flickr8k, with its official splits")
    parser.add_argument("--out", default=out)
    parser.add_argument("--epochs", type=int)
    arguments = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    chosen = make(recipe, {**read_yaml(CONFIGS / config), **arguments, "model": "mini", **settings})
    return chosen, has_checkpoint(Path(chosen.out))
