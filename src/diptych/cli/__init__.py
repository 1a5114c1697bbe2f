"""The command line: a thin shell over the library, and the one place that prints and exits.

Each group of commands is one file here and one line in `COMMANDS`; it is imported when it is used, so that
`diptych --help` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cyclopts import App

from diptych.errors import DiptychError
from diptych.runtime.terminal import guard_output

COMMANDS = {  # name -> where the function or group stands in this package, and what it is for
    "data": ("data:app", "Look at data sets, and draw one to try things on."),
    "train": ("train:app", "Train models."),
    "eval": ("measure:app", "Measure models by the field's protocols."),
    "compare": ("compare:compare", "Compare models on the same pictures, in one report."),
    "index": ("library:index", "Index the pictures of a folder, so that they can be searched."),
    "search": ("ask:search", "Search an index: by text, by picture, by what is not wanted."),
    "find": ("find:find", "Find the pictures of a data set that match a text, as a table and as a grid of pictures."),
    "dedupe": ("groups:dedupe", "Find pictures of an index that are there more than once."),
    "cluster": ("groups:cluster", "Group the pictures of an index by theme."),
    "caption": ("caption:caption", "Write captions of pictures, or rank given ones."),
    "match": ("match:match", "Say how likely it is that a picture and a text belong together."),
    "prompt": ("prompt:prompt", "Say with which prompt a picture could have been made."),
    "classify": ("classify:classify", "Sort pictures into classes by their names, or by examples."),
    "score": ("score:score", "Say how well generated pictures keep to their prompts."),
    "app": ("page:page", "Serve a web page that captions, searches, matches, indexes and compares."),
    "serve": ("serve:serve", "Serve search, captions, matching and prompts over HTTP."),
    "mcp": ("serve:mcp", "Give agents tools over MCP: search, caption, match, index."),
    "export": ("export:app", "Write models as graphs for ONNX Runtime and OpenVINO, and as endpoints."),
    "hub": ("hub:app", "Put models on the Hugging Face hub."),
}


def _error_panel(error: Any) -> Any:
    from diptych.cli.show import error_panel

    return error_panel(error)


def _fail(message: object, code: int) -> NoReturn:
    """Say on standard error why the command ends, and end it."""
    from diptych.cli.show import warn

    warn(message)
    sys.exit(code)


app = App(
    name="diptych",
    help="Train, measure, search, caption and serve with image-text models on your own pictures and captions.",
    version=lambda: __import__("diptych").__version__,
    error_formatter=_error_panel,
    suppress_keyboard_interrupt=False,  # `main` says what the interruption means
)
for order, (name, (place, purpose)) in enumerate(COMMANDS.items()):
    app.command(f"{__name__}.{place}", name=name, help=purpose, sort_key=order)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line on `words` (by default the program's own) and exit.

    The exit code is 0 when it went well, 1 for an error that diptych or a file names, told in one sentence on
    standard error, 2 for words that are no command, and 130 when interrupted.
    """
    words = sys.argv[1:] if words is None else words
    # What renders Markdown is a quarter of the time of `diptych --help`, and the purposes of the groups have none.
    app.help_format = "plaintext" if list(words) in ([], ["-h"], ["--help"]) else "markdown"
    guard_output()
    try:
        app(words)
    except DiptychError as error:
        _fail(error, 1)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            _fail(f"'{error.filename}': {error.strerror}", 1)
        from diptych.runtime.atomic import is_storage_failure

        if not is_storage_failure(error):
            raise
        _fail("the disk is full, or refuses to write; free some space on the disk, and run the command again", 1)
    except KeyboardInterrupt:
        step = "; --resume goes on from the last checkpoint" if "train" in words[:1] else ""
        print(file=sys.stderr)
        _fail(f"interrupted{step}", 130)
