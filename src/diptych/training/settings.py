"""Settings from YAML and keyword arguments into a recipe's dataclass: unknown keys and wrong types are refused."""

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

Recipe = TypeVar("Recipe")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        ConfigError: it is missing, not YAML or not a mapping, has more than 64 KiB, or has aliases.
    """
    try:
        content = yaml.load(read_text(path, _MAX_BYTES), _Loader)  # a SafeLoader
    except DataError as error:
        raise ConfigError(f"cannot read the configuration: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        raise ConfigError(f"'{path}' is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold settings as 'name: value' lines")
    return content


_MAX_BYTES = 64 << 10  # a recipe has 2 kB; PyYAML takes seconds for a megabyte


class _Loader(yaml.SafeLoader):
    """Refuses aliases: ten lines of them make a value of billions of entries, which a message would spell out."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "an alias (*name); write the value itself", event.start_mark)
        return super().compose_node(parent, index)


def make(recipe: type[Recipe], settings: Mapping[str, Any]) -> Recipe:
    """A recipe from settings by name.

    Raises:
        ConfigError: a name is unknown (the nearest valid one is offered) or a value is of the wrong type.
    """
    hints = typing.get_type_hints(recipe)
    valid = [field.name for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    values = {}
    for name, value in settings.items():
        if name not in valid:
            raise ConfigError(f"no setting is called '{name}'; {did_you_mean(name, valid)}")
        if not _fits(value, hints[name]):
            raise ConfigError(f"setting '{name}' is {value!r}; it must be {_say(hints[name])}")
        values[name] = float(value) if hints[name] is float else value
    return recipe(**values)


def grid(path: str | Path) -> Iterator[dict[str, Any]]:
    """Every combination of the settings in a sweep file, whose values are lists."""
    axes = read_yaml(path)
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"'{path}': sweep setting '{name}' must be a list of values to try")
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def to_yaml(recipe: Any) -> str:
    """A recipe's settings as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _say(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("None", "null")  # type: ignore[return-value]
