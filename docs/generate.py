"""Write `docs/cli.md` from the help texts, and the file tree of `docs/architecture.md` from module docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from diptych.cli import COMMANDS, expand_help, program
from diptych.cli.usage import name_arguments

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "diptych"
FILE = DOCS / "cli.md"
ARCHITECTURE = DOCS / "architecture.md"
NOTE = """<!-- Written by `make docs` from the help texts in src/diptych/cli/ and the recipes' fields: change those. -->

Results go to standard output, progress bars and errors to standard error. The exit code is 0 for success, 1 for an
error, reported in one sentence, 2 for a command line that cannot be parsed, and 130 when interrupted.

These options mean the same in every command that has them:

| option | meaning |
| --- | --- |
| `-o`, `--output` | file or folder to write |
| `-k` | number of results |
| `--json` | print JSON instead of tables |
| `-q`, `--quiet` | print results and errors only: no progress bars, no notes |
| `--device` | `auto`, `cpu`, `cuda` or `mps` |
| `--batch-size` | items per forward pass of the model; in training, per optimization step |
| `--overwrite` | replace what already exists |

An option that takes several values (`STR...`) accepts them in one list or repeated: `--freeze image text` is
`--freeze image --freeze text`. Put arguments without a flag before it.

Each setting of a recipe (the options of `diptych train` before `--config`) is also a key of the YAML file and a field
of the recipe's dataclass: `--lr-head 0.001` is `lr_head: 0.001` and `ContrastiveRecipe(lr_head=0.001)`. The exception
is `--output`, whose key and field are `out`.
"""


def reference() -> str:
    """All commands with their flags and defaults, in Markdown."""
    for commands in COMMANDS.values():
        for name in commands:
            expand_help(name)
            for words in ([name], *([name, part] for part in program[name])):
                name_arguments(program, words)
    pages = program.generate_docs(output_format="markdown", recursive=True, heading_level=1)
    title, rest = pages.split("\n", 1)
    text = f"{title}\n\n{NOTE}{rest}"
    text = re.sub(r"## Table of Contents\n.*?(?=\*\*)", "", text, flags=re.DOTALL)
    text = re.sub(r' \*\[default: (?:False|None|\(\)|\[\]|\{\}|"")\]\*', "", text)  # the terminal hides these too
    text = re.sub(r"^diptych((?: [a-z-]+)+)\1\b", r"diptych\1", text, flags=re.MULTILINE)  # a command is named twice
    text = re.sub(r"(?<=\S)\n +(?=\w)", " ", text)  # join wrapped help texts
    return text.rstrip() + "\n"


def tree() -> str:
    """All packages and modules of `src/diptych` with the first line of their docstrings."""
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
    """The text of `docs/architecture.md` with an up-to-date tree."""
    before, mark, rest = ARCHITECTURE.read_text("utf-8").partition("<!-- tree")
    comment, _, after = rest.partition("-->")
    return f"{before}{mark}{comment}-->\n```\n{tree()}\n```\n<!-- /tree -->{after.partition('<!-- /tree -->')[2]}"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(), encoding="utf-8")
