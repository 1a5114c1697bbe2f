"""The structure of `src/diptych`: rooms import downwards only, and no two files import each other."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "diptych"
PACKAGE = "diptych"

# From the top of the house to its ground: a room imports from itself, from the rooms below it, and from `errors`.
ROOMS = (
    *("cli", "cluster", "serving", "export", "training", "evaluation", "reports", "search"),
    *("prompting", "captioning", "matching", "models", "data", "images", "runtime", "errors"),
)
LOOSE = {"__init__", "__main__", "errors"}


def modules() -> dict[str, str]:
    """The code of every module by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = (PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, code: str, known: Iterable[str]) -> set[tuple[int, str]]:
    """(line, module) of each import of one of the `known` modules, those inside functions included."""
    known = set(known)
    package = name if any(other.startswith(f"{name}.") for other in known) else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        found |= {(node.lineno, imported) for imported in names if imported in known}
    return found


def room(module: str) -> str:
    """The room of a module: `diptych.search.store` lies in `search`; a loose file is its own."""
    return [*module.split("."), "__init__"][1]


def upward_imports(code: Mapping[str, str]) -> list[str]:
    """`module:line imports module` for each import from a room above."""
    faults = []
    for name, text in code.items():
        if room(name) in ("__init__", "__main__"):
            continue  # the public names and the program's entry stand above all rooms
        for line, imported in sorted(imports(name, text, code)):
            here, there = room(name), room(imported)
            if here != there and (there not in ROOMS or ROOMS.index(there) < ROOMS.index(here)):
                if (there, text.splitlines()[line - 1].strip()) == ("__init__", f"from {PACKAGE} import __version__"):
                    continue
                faults.append(f"{name}:{line} imports {imported}")
    return faults


def cycles(code: Mapping[str, str]) -> list[list[str]]:
    """Groups of files that import each other, directly or by way of others (strongly connected components)."""
    graph = {name: {other for _, other in imports(name, text, code)} - {name} for name, text in code.items()}
    graph[PACKAGE] = set()  # its imports are for type checkers; at run time its names are loaded when first used
    reachable = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted({name} | {other for other in reachable[name] if name in reachable[other]})) for name in graph
    }
    return sorted([*group] for group in groups if len(group) > 1)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def test_the_package_holds_rooms_and_three_loose_files() -> None:
    entries = {path.stem for path in SOURCE.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert entries <= {*ROOMS, *LOOSE}
    assert {path.stem for path in SOURCE.glob("*.py")} == LOOSE


def test_rooms_import_downwards_only() -> None:
    assert not upward_imports(modules())


def test_no_two_files_import_each_other() -> None:
    assert not cycles(modules())


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("diptych.data.pairs", "from diptych.training.trainer import Trainer"),
        ("diptych.data.pairs", "def read():\n    from diptych import cli"),
        ("diptych.models.towers", "from diptych import Pairs"),
        ("diptych.evaluation.metrics.retrieval", "from ...training import trainer"),
    ],
)
def test_a_planted_upward_import_is_seen(module: str, line: str) -> None:
    code = modules()
    assert upward_imports({**code, module: f"{code[module]}\n{line}\n"}) != []


def test_a_planted_cycle_is_seen() -> None:
    code = modules()
    planted = f"{code['diptych.runtime.progress']}\ndef f():\n    from diptych.runtime import cache\n"
    back = f"{code['diptych.runtime.cache']}\nfrom diptych.runtime.progress import silent\n"
    found = cycles({**code, "diptych.runtime.progress": planted, "diptych.runtime.cache": back})
    assert found == [["diptych.runtime.cache", "diptych.runtime.progress"]]


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders <= set(ROOMS)
