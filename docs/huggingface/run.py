"""Execute the notebooks of this folder and store their outputs, so that they can be read without running them.

    python docs/huggingface/run.py            # all
    python docs/huggingface/run.py tour

Each notebook runs in a temporary folder. Texts and images (as JPEG) are stored; warnings and local paths are not.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

GUIDE = Path(__file__).parent


def execute(path: Path) -> None:
    """Execute a notebook in a temporary folder and store its outputs in the file."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # time stamps
            if cell.cell_type == "code":
                cell.outputs = [cleaned(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, path)


def cleaned(output: Any, folder: str) -> Any:
    """The output without the path of the temporary folder, and with images only as JPEG."""
    if output.output_type == "stream":
        output.text = output.text.replace(f"{os.path.realpath(folder)}{os.sep}", "").replace(f"{folder}{os.sep}", "")
    elif "image/jpeg" in output.get("data", {}):
        output.data.pop("image/png", None)
        output.data["text/plain"] = "an image"
    return output


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in sys.argv[1:] or sorted(path.stem for path in GUIDE.glob("*.ipynb")):
        execute(GUIDE / f"{name}.ipynb")
        print(name)
