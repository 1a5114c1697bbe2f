"""Error messages in the terms of a command: parameters as its flags, and the next steps that it has an option for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce

from cyclopts import App

from diptych.errors import DiptychError

# A quoted text, which belongs to the user; a parameter in backquotes; a parameter with an underscore.
_PARAMETER = re.compile(r"(?<!\w)'[^']*'|`(\w+)`|(?<![\w./-])([a-z]+(?:_[a-z]+)+)(?![\w./(=-])")


def message_for(error: DiptychError, flags: Mapping[str, str]) -> str:
    """The message of an error for users of a command, whose parameters have these flags."""
    steps = [step.with_flag(flags[step.parameter]) for step in error.steps if step.parameter in flags]
    return "; ".join([in_flags(str(error), flags), *steps])


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message with the parameters that it names as flags.

    >>> in_flags("batch_size is 0, in 'batch_size.csv'", {"batch_size": "--batch-size"})
    "--batch-size is 0, in 'batch_size.csv'"
    """
    return _PARAMETER.sub(lambda match: flags.get(match[1] or match[2] or "", match[0]), message)


def flags_of(program: App, words: Sequence[str]) -> dict[str, str]:
    """Parameter -> flag of the command that these words of a command line call, without positional arguments."""
    command = reduce(App.__getitem__, program.parse_commands(words)[0], program)
    return {
        argument.field_info.name: argument.name
        for argument in (command.assemble_argument_collection() if command.default_command else ())
        if argument.index is None and argument.name.startswith("-")
    }
