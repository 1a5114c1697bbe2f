"""The Hugging Face hub: a model goes there with a full card; every loader takes it from there by its name."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from diptych.errors import MissingExtra, ModelError
from diptych.export.model_card import PICTURE, full_card, results_picture
from diptych.models.checkpoints import CARD, bundled_models, model_directory, refuse_unsafe

_LEFT_OUT = {".pt", ".bin", ".pyc", ".lock", ".tmp"}  # a trainer's resume files, pickles, and what is half written


def push(
    name: str | Path,
    repo: str,
    *,
    licence: str | None = None,
    picture: bool = True,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Put a model on the hub as `repo` (USER/NAME), with a full card; returns its address there.

    `name` is a run, a model's directory of any kind, an exported model, an endpoint's directory, or a model in the box.
    The card is the model's own with every section that it lacks, and `picture` adds what the model makes of the sample
    library's photographs, where that can be had. The repository is made if it is not there; files that it has already
    are not sent again. Who pushes is who is logged in (`hf auth login`, or `HF_TOKEN`).

    Raises:
        ModelError: there is no such model, its weights are pickles, it has no licence, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = _folder(name)
    model = folder / "model" if _is_endpoint(folder) else folder
    refuse_unsafe(model)
    content: dict[str, bytes] = {}
    drawn = _picture(model) if picture else None
    if folder == model:  # an endpoint's card was written with it
        content["README.md"] = full_card(model, repo, licence=licence, picture=drawn is not None).encode()
    if drawn is not None:
        content[PICTURE] = drawn
    sources = {file.relative_to(folder).as_posix(): str(file) for file in _files(folder)}
    refused: tuple[type[Exception], ...] = (HfHubHTTPError, HFValidationError, OSError, *_transport_errors())
    whole: dict[str, str | bytes] = {**sources, **content}
    operations = [CommitOperationAdd(path, source) for path, source in whole.items()]
    try:
        api = HfApi()
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(made.repo_id, operations, commit_message=message or f"{made.repo_id}, with diptych")
    except refused as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot push to '{repo}': {reason}; check the name and the network, and log in with `hf auth login`"
        ) from error
    return str(made)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's client lets through where there is no network: the errors of httpx2, or of httpx before it."""
    found = (sys.modules.get(name) for name in ("httpx2", "httpx"))
    return tuple(library.TransportError for library in found if library is not None)


def _folder(name: str | Path) -> Path:
    """The directory that is pushed: an endpoint's as a whole, else the model's."""
    if isinstance(name, str) and name in bundled_models():  # before a folder of that name, as everywhere
        return model_directory(name)
    path = Path(name)
    if _is_endpoint(path):
        return path
    alone = next((folder for folder in (path, path / "model") if (folder / CARD).exists()), None)
    return alone or model_directory(name)  # a prompter alone has no sign of a dual encoder


def _is_endpoint(folder: Path) -> bool:
    return (folder / "handler.py").exists() and (folder / "model").is_dir()


def _picture(model: Path) -> bytes | None:
    """The picture of results as a PNG; None where the model's kind has none, or the sample library is not installed."""
    try:
        drawn = results_picture(model)
    except (MissingExtra, ModelError):
        return None
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return file.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    """What is sent: no hidden files, nothing unfinished, and of Python files an endpoint's handler alone."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        python = file.suffix == ".py" and parts != ("handler.py",)
        left_out = file.suffix in _LEFT_OUT and file.name != "graph.bin"
        if file.is_file() and not hidden and not python and not left_out:
            yield file
