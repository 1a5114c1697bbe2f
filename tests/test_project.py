"""What holds for the project as a whole: what it imports, where each module stands, and what its files may name."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import diptych

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "diptych"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

SHELLS = ("cli", "__main__.py")  # these alone print and exit


def _sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _prints_and_exits(code: str) -> list[str]:
    """`line: call` wherever the code prints or ends the process."""
    spoken = {"print", "exit", "quit", "sys.exit", "os._exit", "SystemExit"}
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    raises = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Raise) and node.exc]
    found = [(node.lineno, ast.unparse(node.func)) for node in calls]
    found += [(node.lineno, ast.unparse(node.exc)) for node in raises if node.exc]
    found += [
        (node.lineno, f"sys.{alias.name}")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "sys"
        for alias in node.names
    ]
    return [f"{line}: {name}" for line, name in found if name in spoken]


def _required_extras(code: str) -> list[str]:
    """The extra that each `require(module, extra)` names."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls = [node for node in calls if ast.unparse(node.func) in ("require", "errors.require")]
    extras = [[k.value for k in node.keywords if k.arg == "extra"] or node.args[1:2] for node in calls]
    return [ast.literal_eval(extra[0]) for extra in extras]


def _files() -> list[Path]:
    """The project's own files: all but git's, and what .gitignore leaves out."""
    ignored = [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").replace("/\n", "\n").split()]
    files: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]
        files += [Path(folder, name) for name in names if not any(fnmatch.fnmatch(name, p) for p in ignored)]
    return files


# Put together from parts, so that this file does not name them itself.
_HOSTS = (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("deb", "debian", "org"), ("crates", "io"))
_HOSTS += (("download", "pytorch", "org"),)
_HOMES = ("home", "Users", "root", "work", "workspace", "opt")
_PLACE = re.compile(
    "|".join(r"\.".join(host) for host in _HOSTS)
    + r"|(?<![\w.~)}>])/(?:"
    + "|".join(_HOMES)
    + r")/[\w.]"
    + r"|\b[A-Z]:\\{1,2}Users\b"
)


def _places(text: str) -> list[str]:
    """`line: text` of each registry host and each absolute path of somebody's machine."""
    return [f"{at}: {line.strip()[:100]}" for at, line in enumerate(text.splitlines(), 1) if _PLACE.search(line)]


def test_no_file_names_a_package_registry_or_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{place}"
        for path in _files()
        for place in _places(path.read_bytes().decode("utf-8", "ignore"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "https://" + "pypi." + "org/simple",
        "at /" + "home/ada/photos",
        '"/' + 'work/main"',
        "file:///" + "root/.cache",
        "C:\\" + "Users\\ada",
    ],
)
def test_a_registry_or_a_machines_path_is_seen(line: str) -> None:
    assert _places(f"first\n{line}\n") == [f"2: {line}"]


@pytest.mark.parametrize("line", ["photos/home/cat.jpg", "https://example.org/home/x", "~/work/photos", "$HOME/work/x"])
def test_a_relative_path_and_a_page_are_no_machines_path(line: str) -> None:
    assert _places(line) == []


def test_importing_diptych_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import diptych; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - sys.stdlib_module_names - {'diptych'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_the_version_is_that_of_pyproject() -> None:
    assert diptych.__version__ == PYPROJECT["project"]["version"]


def test_every_extra_that_an_error_recommends_exists() -> None:
    asked = {extra for path in _sources() for extra in _required_extras(path.read_text(encoding="utf-8"))}
    assert asked <= PYPROJECT["project"]["optional-dependencies"].keys()


def test_an_extra_is_read_from_either_form_of_call() -> None:
    assert _required_extras("require('a', extra='x')\nerrors.require('b', 'y')") == ["x", "y"]


def test_only_the_command_line_prints_and_exits() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in _sources()
        if path.relative_to(SOURCE).parts[0] not in SHELLS
        for fault in _prints_and_exits(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("print('x')", "1: print"),
        ("import sys\nsys.exit(1)", "2: sys.exit"),
        ("raise SystemExit", "1: SystemExit"),
        ("raise SystemExit(2)", "1: SystemExit"),
        ("from sys import exit", "1: sys.exit"),
    ],
)
def test_a_print_or_an_exit_is_seen(code: str, fault: str) -> None:
    assert _prints_and_exits(code) == [fault]


def _pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))


def test_constraints_pin_every_dependency() -> None:
    project = PYPROJECT["project"]
    groups = [*project["optional-dependencies"].values(), *PYPROJECT["dependency-groups"].values()]
    named = {
        re.split(r"[\[<>=~! ;]", requirement)[0].lower()
        for group in (project["dependencies"], *groups)
        for requirement in group
    }
    assert not named - {"diptych"} - _pins().keys(), "run `make constraints`"


def test_pre_commit_runs_the_pinned_ruff() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = [repo["rev"] for repo in config["repos"] if repo["repo"].endswith("/ruff-pre-commit")]
    assert revisions == [f"v{_pins()['ruff']}"]
