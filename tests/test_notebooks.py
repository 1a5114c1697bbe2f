"""The guide runs: every notebook of docs/huggingface, from its first cell to its last, in a fresh kernel, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.models.checkpoints import BUNDLED

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")

GUIDE = Path(__file__).parent.parent / "docs" / "huggingface"
NOTEBOOKS = sorted(path.stem for path in GUIDE.glob("*.ipynb"))
NEEDS = {  # packages that may be missing
    "agents": ("smolagents",),
    "generation": ("diffusers",),
}


def run(notebook: Any, folder: Path) -> None:
    """Execute all cells in `folder`; the first that raises fails."""
    # The kernel inherits HF_HUB_OFFLINE of conftest.py: what would fetch something fails.
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_of_the_notebook_runs(name: str, tmp_path: Path) -> None:
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    if name == "tour" and not json.loads((BUNDLED / "mini" / "diptych.json").read_text()).get("captioner"):
        pytest.skip("mini has no captioner")
    notebook = nbformat.read(GUIDE / f"{name}.ipynb", as_version=4)
    run(notebook, tmp_path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any(cell.outputs for cell in cells)


def test_a_cell_that_fails_is_seen(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("1 / 0")]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        run(nbformat.v4.new_notebook(cells=cells), tmp_path)


def test_the_guide_has_what_it_promises() -> None:
    assert set(NOTEBOOKS) >= {"pipelines", "agents", "endpoints", "generation", "tour"}
    readme = (GUIDE / "README.md").read_text("utf-8")
    assert all(f"({name}.ipynb)" in readme for name in NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_notebook_is_stored_with_an_error_or_more_than_a_page_can_carry(name: str) -> None:
    path = GUIDE / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert path.stat().st_size < 1_500_000
