"""A model's directory: where it lies, and what in it is refused: code, pickles, and whatever leads outside."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diptych.errors import ModelError
from diptych.models.safety import is_checked, refuse_config
from diptych.runtime.atomic import in_place, write_text

CARD = "diptych.json"  # what sentence-transformers' format has no place for, beside its `modules.json`
BUNDLED = Path(__file__).parent / "box"
"""The models that are part of the package, each a directory by its name."""

_SIGNS = ("modules.json", "config.json", "open_clip_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_GRAPHS = ("graph.onnx", "graph.xml")  # of an exported tower; OpenVINO has its weights in `graph.bin`, no pickle
FETCHED = ("*.json", "*.txt", "*.safetensors", "*.model", "*.jinja", *(f"*{name}" for name in (*_GRAPHS, "graph.bin")))

# What sentence-transformers, transformers, timm and open_clip raise on files that are damaged or not what they expect.
UNREADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError, AssertionError),
    *(ImportError, SafetensorError),
)


def first_line(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what the libraries raise on files that are damaged, or not what they expect, into a `ModelError`."""
    try:
        yield
    except UNREADABLE as error:
        raise ModelError(f"cannot load {what}: {first_line(error)}") from error


def read_metadata(folder: Path) -> dict[str, Any]:
    """What the `diptych.json` of a model's directory says; nothing where there is none.

    Raises:
        ModelError: it is no JSON object.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is damaged: {first_line(error)}") from error
    if not isinstance(card, dict):
        raise ModelError(f"'{path}' is damaged: it is no JSON object")
    return card


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the `diptych.json` of a model's directory, whole or not at all."""
    write_text(folder / CARD, json.dumps(card, indent=2) + "\n")


def model_directory(name: str | Path) -> Path:
    """The local directory of a model: one in the box, itself, the `model` folder of a run, or a download from the hub.

    A name that is in the box means that one; a directory of the same name is `./NAME`.

    Raises:
        ModelError: it is none of these, cannot be fetched, or has a link that leads out of it.
    """
    if isinstance(name, str) and name in bundled_models():
        return BUNDLED / name
    path = Path(name)
    if (found := _model_in(path)) is not None:
        return closed_folder(found, path)
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise ModelError(
            f"'{name}' is not a model: it has neither modules.json nor config.json nor open_clip_config.json. "
            f"Pass {', '.join(map(repr, bundled_models()))}, the folder of a training run, a model directory, or "
            "a hub name such as google/siglip2-base-patch16-224"
        )
    fetched = fetched_directory(str(name))
    return _model_in(fetched) or fetched


def fetched_directory(name: str) -> Path:
    """What the hub has of a model that the user named, in its cache: configurations, words and safetensors alone.

    Raises:
        ModelError: there is no such name, or it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # the last: it cannot be a name there
        raise ModelError(
            f"cannot fetch '{name}' from the hub: {str(error).splitlines()[0]}; check the name and the network, "
            "or pass a local directory"
        ) from error


def _model_in(path: Path) -> Path | None:
    """The folder itself or its `model`, as a run and an endpoint have it; None where neither is a model.

    A model that was set aside while a new one was put in its place, which a kill prevented, is still there.
    """
    candidates = (in_place(path), in_place(path / "model"))
    return next((folder for folder in candidates if any((folder / sign).exists() for sign in _SIGNS)), None)


def bundled_models() -> list[str]:
    """The names of the models in the box."""
    return sorted(entry.name for entry in BUNDLED.iterdir() if entry.is_dir()) if BUNDLED.exists() else []


def refuse_unsafe(path: Path) -> None:
    """Stop at what leads out of a model's directory, at weights that would be unpickled, and at configurations.

    Of configurations, `model_configs` says what they may hold.

    Raises:
        ModelError: there is one of them, or no safetensors; the message names the file or folder.
    """
    files = files_in(path)
    for folder in sorted({file.parent for file in files}):
        _refuse_pickles(folder)
    if not any(file.suffix == ".safetensors" or file.name in _GRAPHS for file in files):
        raise ModelError(
            f"'{path}' has no safetensors; weights as a pickle can run code and are not read. Look for a copy that has "
            "them: OpenAI's CLIP, say, is 'open_clip/ViT-B-32' (extra open-clip)"
        )
    for file in files:
        if is_checked(file.name.lower()):  # some file systems do not tell Config.json from config.json
            refuse_config(file)


def _refuse_pickles(folder: Path) -> None:
    """Stop where a library would take weights from a pickle: it prefers safetensors, but by these names alone."""
    files = [file for file in folder.iterdir() if not _is_openvino(file)]
    preferred = any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))
    safe = preferred or any(file.suffix == ".safetensors" for file in files)
    named = any(file.name.lower().startswith("pytorch_model") for file in files)
    pickled = any(file.suffix.lower() in _PICKLES for file in files) and (folder / "config.json").exists()
    if (named and not preferred) or (pickled and not safe):
        raise ModelError(
            f"'{folder}' has weights only as a pickle, which can run code; convert them to model.safetensors "
            "(transformers: model.save_pretrained(folder))"
        )


def _is_openvino(weights: Path) -> bool:
    """Whether a `.bin` is the plain numbers of an OpenVINO graph."""
    return weights.name == "graph.bin" and weights.with_suffix(".xml").exists()


def files_in(path: Path) -> list[Path]:
    """Every file below a folder.

    Raises:
        ModelError: a link leads out of the folder, or something is neither a file nor a folder.
    """
    found, seen = [], set()
    roots = _roots(path)
    for parent, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in (*folders, *names):
            _refuse_outside(Path(parent, name), roots)
        found += [Path(parent, name) for name in names]
    return sorted(found)


def closed_folder(folder: Path, named: Path) -> Path:
    """The model's folder in the one that the user named, or that itself, before anything in it is opened.

    Raises:
        ModelError: it, or a link in it, leads out of the named one.
    """
    if folder not in (named, in_place(named)):
        _refuse_outside(folder, _roots(named))
    files_in(folder)
    return folder


def _roots(path: Path) -> tuple[Path, ...]:
    """Where the files of a model may lie: its folder, and in the hub's cache the blobs of the same repository."""
    real = Path(os.path.realpath(path))
    for snapshot in (real, *real.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and repository.name.startswith("models--"):
            return real, repository / "blobs"
    return (real,)


def _refuse_outside(file: Path, roots: tuple[Path, ...]) -> None:
    """Stop at a link that leads out of a model's folder, and at pipes and devices, whose reading need not end."""
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in roots):
        raise ModelError(f"'{file}' is a link to '{real}', which lies outside the model's folder; put a copy there")
    if real.exists() and not (stat.S_ISREG(mode := real.stat().st_mode) or stat.S_ISDIR(mode)):
        raise ModelError(f"'{file}' is neither a file nor a folder; remove it from the model's folder")
