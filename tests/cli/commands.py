"""The commands of the command line and their options, for tests about all of them."""

from __future__ import annotations

from functools import cache, reduce

from cyclopts import App, ArgumentCollection

from diptych.cli import COMMANDS, program


@cache
def _leaves() -> tuple[tuple[str, ...], ...]:
    leaves: list[tuple[str, ...]] = []
    for commands in COMMANDS.values():
        for name in commands:
            command = program[name]
            leaves += [(name,)] if command.default_command else [(name, leaf) for leaf in command if leaf[0] != "-"]
    return tuple(leaves)


def command_names() -> list[list[str]]:
    """The words of every command and subcommand."""
    return [list(words) for words in _leaves()]


def arguments_in(words: list[str]) -> ArgumentCollection:
    """The arguments of a command."""
    return reduce(App.__getitem__, words, program).assemble_argument_collection()


@cache
def _flags(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for argument in arguments_in(list(words)) for name in argument.names)


def flags_in(words: list[str]) -> frozenset[str]:
    """All names of all options of a command, and those that every command has."""
    return _flags(tuple(words)) | {"--help"}
