"""Writes `docs/cli.md` from the command line's own help: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from diptych.cli import app

FILE = Path(__file__).parent / "cli.md"
NOTE = """<!-- Written by `make docs` from the help texts in src/diptych/cli/ and the recipes' fields: change those. -->

Exit codes: 0 when all went well, 1 for an error, told in one sentence on standard error, 2 for words that are no
command, 130 when interrupted. Tables and JSON go to standard output, progress bars to standard error.

Every flag of `diptych train contrastive` before `--config` is also a line of a YAML file (`--lr-head 0.001` is
`lr_head: 0.001`), and a field of `diptych.ContrastiveRecipe` with the same default.
"""


def reference() -> str:
    """The commands, their flags and defaults in Markdown."""
    pages = app.generate_docs(output_format="markdown", recursive=True, heading_level=1)
    title, rest = pages.split("\n", 1)
    text = f"{title}\n\n{NOTE}{rest}"
    text = re.sub(r"## Table of Contents\n.*?(?=\*\*Commands)", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<=\S)\n +(?=\w)", " ", text)  # a help text of several lines is one
    return text.rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
