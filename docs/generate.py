"""Writes `docs/cli.md` from the command line's help, and the tree of `docs/architecture.md` from docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from diptych.cli import app

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "diptych"
FILE = DOCS / "cli.md"
ARCHITECTURE = DOCS / "architecture.md"
NOTE = """<!-- Written by `make docs` from the help texts in src/diptych/cli/ and the recipes' fields: change those. -->

Exit codes: 0 for success, 1 for an error, reported in one sentence on standard error, 2 for a command line that cannot
be parsed, 130 when interrupted. Tables and JSON go to standard output, progress bars to standard error.

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


def tree() -> str:
    """Every package and module of `src/diptych` with the first line of its docstring."""
    return "\n".join(["src/diptych/", *_entries(SOURCE, "  ")])


def _entries(folder: Path, indent: str) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            lines += [_line(f"{indent}{path.name}/", path / "__init__.py"), *_entries(path, f"{indent}  ")]
        elif path.suffix == ".py" and (path.name != "__init__.py" or folder == SOURCE):
            lines.append(_line(f"{indent}{path.name}", path))
    return lines


def _line(name: str, module: Path) -> str:
    purpose = (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n\n")[0].replace("\n", " ")
    return f"{name:<30} {purpose}".rstrip()


def architecture() -> str:
    """`docs/architecture.md` with the tree as it is now."""
    before, mark, rest = ARCHITECTURE.read_text("utf-8").partition("<!-- tree")
    comment, _, after = rest.partition("-->")
    return f"{before}{mark}{comment}-->\n```\n{tree()}\n```\n<!-- /tree -->{after.partition('<!-- /tree -->')[2]}"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(), encoding="utf-8")
