"""The command line: a thin layer over the library, and the only code that prints and exits.

Each command is a file of this package, named after it, and one line in `COMMANDS`. A command is imported when it is
used, so that `diptych --help` stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from cyclopts import App, Group, Parameter

from diptych.errors import DiptychError
from diptych.runtime.terminal import guard_output

if TYPE_CHECKING:
    from cyclopts import CycloptsError
    from rich.panel import Panel

# Group of the help page -> command -> (where its function or App is in this package, what it does).
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Data": {
        "data": ("data:app", "Inspect, download, draw and audit data sets."),
    },
    "Train and evaluate": {
        "train": ("train:app", "Train dual encoders, matchers, captioners and prompters."),
        "eval": ("eval:app", "Evaluate models with the standard protocols of their tasks."),
        "compare": ("compare:compare", "Compare models on the same images, in one report."),
    },
    "Search": {
        "index": ("index:index", "Index a folder of images, so that it can be searched."),
        "search": ("search:search", "Search an index by text, by example image, or both."),
        "find": ("find:find", "Find the images of a data set that match a text, without an index."),
        "dedupe": ("dedupe:dedupe", "Find duplicate images in an index."),
        "cluster": ("cluster:cluster", "Group the images of an index by theme."),
    },
    "Captions, prompts and classes": {
        "caption": ("caption:caption", "Caption images, or rank given captions."),
        "match": ("match:match", "Estimate the probability that an image and a text match."),
        "prompt": ("prompt:prompt", "Suggest prompts that could have generated an image."),
        "score": ("score:score", "Score generated images against their prompts (CLIPScore)."),
        "classify": ("classify:classify", "Classify images by class names or by labelled examples."),
    },
    "Serve": {
        "app": ("app:app", "Start a web page to search, caption, match, index and compare."),
        "serve": ("serve:serve", "Serve search, captions, matching and prompts over HTTP."),
        "mcp": ("mcp:mcp", "Serve search, captions, matching, prompts and indexing to agents over MCP."),
    },
    "Share": {
        "export": ("export:app", "Export models to ONNX, OpenVINO and Inference Endpoints."),
        "hub": ("hub:app", "Publish models on the Hugging Face Hub."),
    },
}

_BROKEN_PIPE = 128 + 13  # as shells report SIGPIPE


def _error_panel(error: CycloptsError) -> Panel:
    from diptych.cli.show import error_panel

    return error_panel(error)


def _shown_default(value: Any) -> str | None:
    """A default as the help shows it; None for those that say nothing: off, unset, empty."""
    if value is None or value is False or value in ("", (), [], {}):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _fail(message: object, code: int, *, new_line: bool = False) -> NoReturn:
    """Print why the command ends on standard error, and exit with `code`."""
    from diptych.cli.show import warn

    warn(message, new_line=new_line)
    sys.exit(code)


program = App(
    name="diptych",
    help="Train, evaluate, search, caption and serve image-text models on your own images and captions.",
    version=lambda: __import__("diptych").__version__,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=(), show_default=_shown_default),
    error_formatter=_error_panel,
    suppress_keyboard_interrupt=False,  # `main` reports it
)
options = Group("Options", sort_key=len(COMMANDS))
for flag in ("--help", "--version"):
    program[flag].group = options
for group_order, (group_name, commands) in enumerate(COMMANDS.items()):
    group = Group(group_name, sort_key=group_order)
    for order, (name, (place, purpose)) in enumerate(commands.items()):
        program.command(f"{__name__}.{place}", name=name, help=purpose, group=group, sort_key=order)


def expand_help(name: str) -> None:
    """Let the help page of a command show its whole docstring instead of its line in `COMMANDS`."""
    command = program[name]
    if command.default_command is not None:
        command.help = None


def _asks_for_help(words: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(words)


def dispatch(words: Sequence[str]) -> None:
    """Run a command, whose flags may have old spellings, without handling its errors."""
    if words and any(words[0] in commands for commands in COMMANDS.values()):
        from diptych.cli.renamed import current_spelling

        words = current_spelling(words)
        expand_help(words[0])
        if _asks_for_help(words):
            from diptych.cli.usage import name_arguments

            name_arguments(program, program.parse_commands(words)[0])
    program(words)


def _fail_as_command(error: DiptychError, words: Sequence[str]) -> NoReturn:
    """Report an error in the terms of the command that raised it."""
    from diptych.cli.advice import flags_of, message_for

    _fail(message_for(error, flags_of(program, words)), 1)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _end_of_pipe()


def _end_of_pipe() -> NoReturn:
    """End as a program does that the system ends for writing to a closed pipe: silently."""
    # What is still buffered would be written, and fail, when the interpreter exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_BROKEN_PIPE)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line on `words` (by default those of the process) and exit.

    The exit code is 0 for success, 1 for an error, reported in one sentence on standard error, 2 for a command line
    that cannot be parsed, 130 when interrupted, and 141 if the program that reads the output has ended.
    """
    words = list(sys.argv[1:] if words is None else words)
    # Rendering Markdown takes a quarter of the time of `diptych --help`, whose texts have none.
    program.help_format = "plaintext" if words in ([], ["-h"], ["--help"]) else "markdown"
    guard_output()
    try:
        dispatch(words)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # rich turns it into an exit code of its own
            _end_of_pipe()
        _flush()
        raise
    except DiptychError as error:
        _fail_as_command(error, words)
    except BrokenPipeError:
        _end_of_pipe()
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            _fail(f"'{error.filename}': {error.strerror}", 1)
        from diptych.runtime.atomic import is_storage_failure

        if not is_storage_failure(error):
            raise
        _fail("the disk is full or cannot be written to; free some space, then run the command again", 1)
    except KeyboardInterrupt:
        step = "; --resume continues from the last checkpoint" if words[:1] == ["train"] else ""
        _fail(f"interrupted{step}", 130, new_line=True)
