"""What a command expects, in usage lines and in errors: arguments by name, not as `[ARGS...]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce

from cyclopts import App, Argument, CycloptsError, MissingArgumentError
from cyclopts.help import format_usage

_OPTIONAL = re.compile(r"\[ARGS(\.\.\.)?\]")


def name_arguments(program: App, command: Sequence[str]) -> None:
    """Name the optional arguments of a command, given by its words, in the usage line of its help page."""
    command = [word for word in command if not word.startswith("-")]
    app = reduce(App.__getitem__, command, program)
    if app.default_command is None:
        return
    names = [
        _label(argument)
        for argument in app.assemble_argument_collection()
        if argument.show and not argument.required and _is_positional(argument)
    ]
    line = format_usage(program, command, execution_path=[app]).plain.strip()
    app.usage = f"Usage: {_OPTIONAL.sub(' '.join(names), line)}"


def missing_argument(error: CycloptsError) -> str | None:
    """The message for a required argument or option that was left out; None for every other error."""
    argument = error.argument
    if type(error) is not MissingArgumentError or argument is None or error.keyword or argument.tokens:
        return None
    command = " ".join(("diptych", *(error.command_chain or ())))
    name = argument.name.lstrip("-").upper() if _is_positional(argument) else argument.name
    kind = "argument" if _is_positional(argument) else "option"
    return f"{command}: missing {kind} {name}"


def _is_positional(argument: Argument) -> bool:
    return argument.index is not None or argument.field_info.kind is argument.field_info.VAR_POSITIONAL


def _label(argument: Argument) -> str:
    several = "..." if argument.field_info.kind is argument.field_info.VAR_POSITIONAL else ""
    return f"[{argument.name.lstrip('-').upper()}{several}]"
