"""Figures of the source tree: its size, its structure, its types and docstrings.

    python benchmarks/structure.py [CHECKOUT]

Counts loose modules, packages, levels of imports between files, groups of files that import each other, files, lines,
the median file and function, functions over 50 lines, uses of `Any`, and public functions without a docstring.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

LOOSE = {"__init__", "__main__", "errors"}


def imports(name: str, tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, those for type checkers left out."""
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in known else node.module for full in names}
    return found & known - {name}


def groups(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one file."""
    reach = {name: closure(graph, name) for name in graph}
    found = {frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph}
    return [set(group) for group in found if len(group) > 1]


def closure(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every file that `start` imports, directly or by way of others."""
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def level(graph: dict[str, set[str]], name: str, cyclic: set[str], known: dict[str, int]) -> int:
    """The length of the longest chain of imports below a file; files of a cycle count once."""
    if name not in known:
        known[name] = 0
        below = [level(graph, other, cyclic, known) for other in graph[name]]
        known[name] = 1 + max(below, default=0)
    return known[name]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a module and the methods of its classes without a leading underscore in any name."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    for body in bodies:
        yield from (
            f
            for f in body
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            and f.name[0] != "_"
            and "overload" not in map(ast.unparse, f.decorator_list)
        )


def main(checkout: Path) -> None:
    """Print the figures of a checkout."""
    source = checkout / "src" / "diptych"
    trees, lines = {}, {}
    for path in source.rglob("*.py"):
        parts = ("diptych", *path.relative_to(source).with_suffix("").parts)
        text = path.read_text("utf-8")
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name], lines[name] = ast.parse(text), len(text.splitlines())
    graph = {name: imports(name, tree, set(trees)) for name, tree in trees.items()}
    cycles = groups(graph)
    lengths = [f.end_lineno - f.lineno + 1 for tree in trees.values() for f in functions(tree) if f.end_lineno]
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    public = [f for tree in trees.values() for f in public_functions(tree)]
    tests = sum(len(path.read_text("utf-8").splitlines()) for path in (checkout / "tests").rglob("*.py"))
    known: dict[str, int] = {}
    figures = {
        "loose modules": sum(path.stem not in LOOSE for path in source.glob("*.py")),
        "packages": sum(1 for path in source.iterdir() if (path / "__init__.py").exists()),
        "import levels between files": max(level(graph, name, set(), known) for name in graph),
        "cycles between files": len(cycles),
        "files": len(trees),
        "lines": sum(lines.values()),
        "lines of the median file": round(statistics.median(lines.values())),
        "lines of the median function": round(statistics.median(lengths)),
        "functions over 50 lines": sum(length > 50 for length in lengths),
        "uses of Any": sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes),
        "uses of dict[str, Any]": sum(
            isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]" for node in nodes
        ),
        "public functions": len(public),
        "of them without a docstring": sum(ast.get_docstring(f) is None for f in public),
        "lines of tests for each line of source": round(tests / sum(lines.values()), 2),
    }
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>8,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
