"""Advice in messages: every option that a message names exists in the command that shows it."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import diptych
from diptych.cli import program
from diptych.cli.advice import flags_of, in_flags, message_for
from diptych.errors import ConfigError, DataError, ImageError, NextStep
from tests.cli.commands import command_names, flags_in

SOURCE = Path(diptych.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"diptych ((?:[a-z-]+ )?[a-z-]+)[^`;:]*")
ADVICE = re.compile(
    r"\b(?:pass|raise|increase|lower|reduce|set|use|give|change|choose|see|with) `?([a-z]+(?:_[a-z]+)+)\b"
)

# Files whose messages reach the users of these commands, where the file is not named after its command.
SHOWN_BY = {
    "cli/__init__.py": ["train contrastive", "train match", "train caption", "train prompt"],
    "cli/options.py": ["caption"],
    "cli/renamed.py": [],
    "cli/show.py": ["data inspect", "search", "dedupe"],
    "serving/api": ["serve"],
    "serving/api/access.py": ["serve", "mcp"],
    "serving/api/server.py": ["serve", "mcp"],
    "serving/served_index.py": ["serve", "mcp", "app"],
    "serving/app": ["app"],
}
# Messages of `cli/show.py` for some of its commands only, which the code that shows them knows.
NOT_FOR_ALL = {"cli/show.py": {"--json": {"dedupe", "search"}, "--null": {"data inspect"}}}
# Parameters of the Python interface that no command can reach with these messages.
PYTHON_ONLY = {"generate_kwargs"}


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The line and text of every string of a file that is not a docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    ignored = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    ignored |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in ignored:
            yield node.lineno, node.value


def raised(path: Path) -> Iterator[tuple[int, str]]:
    """The line and text of every message of an error that a file raises."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith(("Error", "Missing", "Refused")):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def commands_of(name: str) -> list[str]:
    """The commands that show messages of a source file, by its path below `src/diptych`."""
    if name in SHOWN_BY:
        return SHOWN_BY[name]
    for folder, commands in SHOWN_BY.items():
        if name.startswith(f"{folder}/"):
            return commands
    stem = name.removeprefix("cli/").removesuffix(".py").replace("/", " ")
    return [" ".join(words) for words in command_names() if f"{' '.join(words)} ".startswith(f"{stem} ")]


def unknown_flags(name: str, text: str) -> list[str]:
    """The flags in a message of a file which the command that the text names, or that shows the text, does not have."""
    unknown = []
    rest = text
    for match in COMMAND.finditer(text):
        words = match[1].split()
        command = next((words[:n] for n in (2, 1) if words[:n] in command_names()), None)
        if command is not None:
            own = flags_in(command)
            unknown += [f"{' '.join(command)} {flag}" for flag in FLAG.findall(match[0]) if flag not in own]
            rest = rest.replace(match[0], "")
    for flag in FLAG.findall(rest):
        commands = set(commands_of(name)) - NOT_FOR_ALL.get(name, {}).get(flag, set())
        unknown += [f"{command} {flag}" for command in commands if flag not in flags_in(command.split())]
        unknown += [flag] if not commands else []
    return unknown


def looks_like_prose(text: str) -> bool:
    return " " in text.strip() and "{ " not in text and "var(--" not in text


def test_every_flag_in_a_message_is_an_option_of_the_command_that_shows_it() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {flag}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in messages(path)
        if looks_like_prose(text)
        for flag in unknown_flags(path.relative_to(SOURCE).as_posix(), text)
        if flag != "--sparse"  # of the program `tar`
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "text", "flags"),
    [
        ("data/pairs.py", "use --split all", ["--split"]),
        ("cli/dedupe.py", "use --split all", ["dedupe --split"]),
        ("cli/dedupe.py", "use --paths", []),
        ("data/pairs.py", "`diptych index --prune` removes it", []),
        ("data/pairs.py", "`diptych search --prune` removes it", ["search --prune"]),
        ("data/pairs.py", "diptych train match --model {} --images X", ["train match --images"]),
    ],
)
def test_a_flag_without_its_command_is_found(name: str, text: str, flags: list[str]) -> None:
    assert unknown_flags(name, text) == flags


def test_parameters_that_messages_advise_to_set_are_fields_of_the_recipe_or_next_steps() -> None:
    from dataclasses import fields

    from diptych.training.caption.config import CaptionRecipe
    from diptych.training.contrastive.config import ContrastiveRecipe
    from diptych.training.match.config import MatchRecipe
    from diptych.training.prompt.config import PromptRecipe

    recipes = (CaptionRecipe, ContrastiveRecipe, MatchRecipe, PromptRecipe)
    settings = {field.name for recipe in recipes for field in fields(recipe)}
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in raised(path)
        for name in ADVICE.findall(text)
        if name not in PYTHON_ONLY and not ("training" in path.parts and name in settings)
    ]
    assert wrong == []


def test_the_parameter_of_every_next_step_is_an_option_of_some_command() -> None:
    known = {name for words in command_names() for name in flags_of(program, words)}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NextStep":
                parameter = node.args[1]
                assert not isinstance(parameter, ast.Constant) or parameter.value in known, f"{path}:{node.lineno}"


def test_a_next_step_is_shown_under_the_flag_of_a_command_that_has_it() -> None:
    error = DataError("no image is in split 'test'", steps=[NextStep("select all images", "split", "all")])
    assert message_for(error, {"split": "--split"}) == "no image is in split 'test'; select all images (--split all)"
    assert message_for(error, flags_of(program, ["find"])).endswith("(--split all)")
    assert message_for(error, flags_of(program, ["train", "match"])) == "no image is in split 'test'"
    assert str(error) == "no image is in split 'test'"
    assert error.__notes__ == ["Next step: select all images (split='all')"]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("batch_size must be at least 2", "--batch-size must be at least 2"),
        ("choose another folder with `out`", "choose another folder with --output"),
        ("'batch_size' is a file's name", "'batch_size' is a file's name"),
        ("it's batch_size, isn't it", "it's --batch-size, isn't it"),
        ("a/batch_size/b and batch_size.csv", "a/batch_size/b and batch_size.csv"),
        ("`unzip` and another_name stay", "`unzip` and another_name stay"),
    ],
)
def test_parameters_in_a_message_are_shown_as_flags_and_quoted_texts_stay(message: str, shown: str) -> None:
    assert in_flags(message, {"batch_size": "--batch-size", "out": "--output"}) == shown


def test_every_command_has_its_parameters_as_flags() -> None:
    assert flags_of(program, ["train", "contrastive", "--data", "x"])["out"] == "--output"
    assert flags_of(program, ["search", "a dog"])["unwanted"] == "--not"
    assert flags_of(program, ["serve"])["max_pixels"] == "--max-pixels"
    assert flags_of(program, []) == {}
    assert "images" not in flags_of(program, ["prompt", "photo.jpg"])  # an argument by position
    assert all(flags_of(program, words) for words in command_names() if words != ["data", "photographs"])


@pytest.mark.parametrize(
    "error",
    [
        ImageError("empty", "'a.png' is empty"),
        ConfigError("no", steps=[NextStep("do this", "split", "all")]),
    ],
)
def test_errors_keep_their_reason_and_steps_between_processes(error: ConfigError | ImageError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


def test_every_option_has_a_help_text() -> None:
    reference = (SOURCE.parents[1] / "docs" / "cli.md").read_text("utf-8")
    options = re.findall(r"^\* `[^`]+`.*$", reference, re.MULTILINE)
    assert len(options) > 300
    assert [line for line in options if not re.match(r"\* `[^`]+`: \S", line)] == []
