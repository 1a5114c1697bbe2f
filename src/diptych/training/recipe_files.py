"""Recipes from YAML files and by keyword, with checks of names and types."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.runtime.files import read_text
from diptych.training.run_settings import RunSettings

Recipe = TypeVar("Recipe")
Settings = dict[str, Any]
"""Settings by name, as YAML has them."""

RECIPE = "recipe.yaml"
"""The file of a run folder that holds its settings."""

_MAX_BYTES = 64 << 10  # a recipe has 2 kB, and PyYAML takes seconds per megabyte


class _Loader(yaml.SafeLoader):
    """A `SafeLoader` without aliases: nested aliases expand ten lines to billions of entries ("billion laughs")."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: str | Path) -> Settings:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: the file is missing, larger than 64 KiB, not YAML, not a mapping, or contains aliases.
    """
    try:
        content = yaml.load(read_text(path, _MAX_BYTES), _Loader)  # a SafeLoader
    except DataError as error:
        raise ConfigError(f"cannot read the configuration: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an invalid date or number
        raise ConfigError(f"'{path}' is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold settings as 'name: value' lines")
    return content


def make(recipe: type[Recipe], settings: Mapping[str, Any]) -> Recipe:
    """Build a recipe of the given class from settings by name; integers are converted where a float is expected.

    Raises:
        ConfigError: a name is unknown (the message suggests the closest one) or a value has the wrong type.
    """
    hints = typing.get_type_hints(recipe)
    names = [field.name for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    values = {}
    for name, value in settings.items():
        if name not in names:
            raise ConfigError(f"no setting is called '{name}'; {did_you_mean(name, names)}")
        if not _has_type(value, hints[name]):
            raise ConfigError(f"setting '{name}' is {value!r}; it must be {_type_name(hints[name])}")
        values[name] = float(value) if hints[name] is float else value
    return recipe(**values)


def read_recipe(recipe: type[Recipe], path: str | Path) -> Recipe:
    """Read a recipe of the given class from a YAML file.

    Raises:
        ConfigError: the file is invalid (see `read_yaml`), or a setting is unknown or has the wrong type.
    """
    return make(recipe, read_yaml(path))


def grid(path: str | Path) -> Iterator[Settings]:
    """Every combination of the values in a sweep file, which maps each setting to a list of values.

    Raises:
        ConfigError: the file is invalid (see `read_yaml`), or a value is not a non-empty list.
    """
    axes = read_yaml(path)
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"'{path}': sweep setting '{name}' must be a list of values to try")
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def to_yaml(recipe: RunSettings) -> str:
    """The settings of a recipe as YAML, in field order."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)


def _has_type(value: object, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    """The type in the words of an error message, with None as YAML writes it."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("None", "null")
