"""Publishing models on the Hugging Face hub, with a complete model card."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from diptych.errors import MissingExtra, ModelError
from diptych.export.model_card import EXAMPLE_IMAGE, complete_model_card, example_image
from diptych.models.checkpoints import METADATA, bundled_models, model_directory, refuse_unsafe
from diptych.models.model_upload import upload_files, uploaded_files


class SavesPretrained(Protocol):
    """A model that can be saved to a directory."""

    def save_pretrained(self, path: str | Path) -> object:
        """Write the model to a directory."""


def push(
    model: str | Path | SavesPretrained,
    repo: str,
    *,
    licence: str | None = None,
    preview: bool = True,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Publish a model on the hub as `repo` (USER/NAME) with a complete model card; returns its URL.

    `model` is a training run, a model directory of any kind, an exported model, an endpoint's directory, a bundled
    model, or a model in memory, which is saved first. The model card is the model's own, completed with the sections
    that it lacks. `licence` is an identifier of the hub (`apache-2.0`, `mit`, ...), required if the card names none.
    `preview` adds an image of results on the sample library, where one can be made. The repository is created if it
    does not exist, as a private one with `private`. Files that the hub has already are not uploaded again. Log in with
    `hf auth login` or set `HF_TOKEN`.

    Raises:
        ModelError: there is no such model, its weights are not safetensors, it has no licence, or the hub refuses it.
    """
    with _directory(model) as folder:
        files = _contents(folder, repo, licence, preview)
        return upload_files(files, repo, private=private, commit_message=message)


@contextmanager
def _directory(model: str | Path | SavesPretrained) -> Iterator[Path]:
    """The directory to publish: an endpoint's as a whole, otherwise the model's; temporary for a model in memory."""
    if isinstance(model, str | Path):
        yield _find_directory(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        yield Path(folder)


def _find_directory(name: str | Path) -> Path:
    if isinstance(name, str) and name in bundled_models():  # takes precedence over a folder of that name
        return model_directory(name)
    path = Path(name)
    if _is_endpoint(path):
        return path
    # `model_directory` looks for a dual encoder; a prompter of its own has only diptych.json.
    described = next((folder for folder in (path, path / "model") if (folder / METADATA).exists()), None)
    return described or model_directory(name)


def _is_endpoint(folder: Path) -> bool:
    return (folder / "handler.py").exists() and (folder / "model").is_dir()


def _contents(folder: Path, repo: str, licence: str | None, preview: bool) -> dict[str, str | bytes]:
    """The files of the repository, by their paths there: a local path or the content."""
    model = folder / "model" if _is_endpoint(folder) else folder
    refuse_unsafe(model)
    files: dict[str, str | bytes] = {file.relative_to(folder).as_posix(): str(file) for file in uploaded_files(folder)}
    if folder != model:
        files["handler.py"] = str(folder / "handler.py")
    image = _example_png(model) if preview else None
    if folder == model:  # an endpoint already has its own card
        files["README.md"] = complete_model_card(model, repo, licence=licence, preview=image is not None).encode()
    if image is not None:
        files[EXAMPLE_IMAGE] = image
    return files


def _example_png(model: Path) -> bytes | None:
    """The image of results as PNG; None if the kind of model has none, or the sample library is not installed."""
    try:
        image = example_image(model)
    except (MissingExtra, ModelError):
        return None
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
