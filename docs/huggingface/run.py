"""Execute the guide's notebooks and store what they show, so that they can be read without running them.

    python docs/huggingface/run.py            # all
    python docs/huggingface/run.py tour

Each runs in a folder that is thrown away. Kept are texts and pictures (as JPEG); warnings and paths are not.
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
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when it ran
            if cell.cell_type == "code":
                cell.outputs = [kept(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, path)


def kept(output: Any, folder: str) -> Any:
    """The output without this machine's folder, and a picture in one form alone."""
    if output.output_type == "stream":
        output.text = output.text.replace(f"{os.path.realpath(folder)}{os.sep}", "").replace(f"{folder}{os.sep}", "")
    elif "image/jpeg" in output.get("data", {}):
        output.data.pop("image/png", None)
        output.data["text/plain"] = "a picture"
    return output


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in sys.argv[1:] or sorted(path.stem for path in GUIDE.glob("*.ipynb")):
        execute(GUIDE / f"{name}.ipynb")
        print(name)
