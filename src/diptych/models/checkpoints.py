"""Model directories: resolving names, reading metadata, and refusing pickles, code and links to the outside."""

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
from diptych.models.hub_access import quick_offline
from diptych.models.safety import is_checked, refuse_config
from diptych.runtime.atomic import in_place, write_text

METADATA = "diptych.json"
"""Metadata beside sentence-transformers' `modules.json`: logit scale, matcher, captioner, prompter, recipe."""

Metadata = dict[str, Any]
"""The content of a `diptych.json`: parsed JSON, whose values are checked where they are used."""

HeadSettings = dict[str, int | float | bool]
"""The arguments of a head (of a matcher, captioner or prompter) as `diptych.json` keeps them."""

BUNDLED = Path(__file__).parent / "box"
"""Directory of the models that come with the package, one subdirectory each."""

_SIGNS = ("modules.json", "config.json", "open_clip_config.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_GRAPHS = ("graph.onnx", "graph.xml")  # of an exported tower; OpenVINO's `graph.bin` is not a pickle
FETCHED = (  # patterns of the files that are downloaded
    "*.json",
    "*.txt",
    "*.safetensors",
    "*.model",
    "*.jinja",
    *(f"*{name}" for name in (*_GRAPHS, "graph.bin")),
)

# Raised by sentence-transformers, transformers, timm and open_clip on damaged or unexpected files.
UNREADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError, AssertionError),
    *(ImportError, SafetensorError),
)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Raise `ModelError` for the errors that libraries raise on damaged or unexpected files.

    Args:
        what: What is being loaded, for the message.

    Raises:
        ModelError: Loading failed.
    """
    try:
        yield
    except Exception as error:
        if not is_unreadable(error):
            raise
        raise ModelError(f"cannot load {what}: {first_line(error)}") from error


def is_unreadable(error: Exception) -> bool:
    """Whether a library says by an error that a model's files are damaged, or not what it expects.

    The hub's library, which takes long to import, has errors of no standard type for configurations.
    """
    return isinstance(error, UNREADABLE) or type(error).__module__ == "huggingface_hub.errors"


def read_metadata(folder: Path) -> Metadata:
    """The metadata in a model directory's `diptych.json`; empty if there is no such file.

    Raises:
        ModelError: It is not a JSON object.
    """
    path = folder / METADATA
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' is damaged: {first_line(error)}") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"'{path}' is damaged: it is not a JSON object")
    return metadata


def add_part(folder: Path, part: str) -> Metadata:
    """The metadata of a dual encoder's directory, to which a part such as a matcher is added.

    Raises:
        ModelError: There is no dual encoder in the directory.
    """
    if not (folder / METADATA).exists():
        raise ModelError(f"'{folder}' has no dual encoder to add a {part} to; save the encoder there first")
    return read_metadata(folder)


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Write a model directory's `diptych.json` atomically."""
    write_text(folder / METADATA, json.dumps(metadata, indent=2) + "\n")


def model_directory(name: str | Path) -> Path:
    """The local directory of a model.

    Args:
        name: A bundled model, a model directory, a run (its `model` subdirectory), or a hub name, which is downloaded.
            The name of a bundled model means that one; a directory of the same name is `./NAME`.

    Raises:
        ModelError: It is none of these, cannot be downloaded, or contains a link that leads out of the directory.
    """
    if isinstance(name, str) and name in bundled_models():
        return BUNDLED / name
    path = Path(name)
    if (directory := _model_in(path)) is not None:
        return closed_folder(directory, path)
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        what = (
            f"'{name}' is not a model: it has neither modules.json nor config.json nor open_clip_config.json"
            if path.exists()
            else f"there is no model '{name}'"
        )
        raise ModelError(
            f"{what}; give {', '.join(map(repr, bundled_models()))}, a training run, a model directory, or a hub name "
            "such as google/siglip2-base-patch16-224"
        )
    fetched = fetched_directory(str(name))
    return _model_in(fetched) or fetched


def fetched_directory(name: str) -> Path:
    """Download a model from the hub into its cache: configurations, vocabularies and safetensors only.

    Raises:
        ModelError: There is no such name, or it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with quick_offline(name):
            return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except (OSError, HfHubHTTPError, HFValidationError, ModelError) as error:  # HFValidationError: not a valid name
        raise ModelError(
            f"cannot fetch '{name}' from the hub: {str(error).splitlines()[0]}; check the name and the network, "
            "or pass a local directory"
        ) from error


def _model_in(path: Path) -> Path | None:
    """The directory itself or its `model` subdirectory (a run, an endpoint); None if neither is a model.

    If a process was killed while it replaced the model, the previous one is used.
    """
    candidates = (in_place(path), in_place(path / "model"))
    return next((folder for folder in candidates if any((folder / sign).exists() for sign in _SIGNS)), None)


def bundled_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(entry.name for entry in BUNDLED.iterdir() if entry.is_dir()) if BUNDLED.exists() else []


def refuse_unsafe(path: Path) -> None:
    """Refuse a model directory with links to the outside, pickled weights or unsafe configurations (`safety`).

    Raises:
        ModelError: It has one of these, or no safetensors; the message names the file or folder.
    """
    files = files_in(path)
    for folder in sorted({file.parent for file in files}):
        _refuse_pickles(folder)
    if not any(file.suffix == ".safetensors" or file.name in _GRAPHS for file in files):
        raise ModelError(
            f"'{path}' has no safetensors; pickled weights can run code and are not read. Look for a copy with "
            "safetensors: OpenAI's CLIP, for example, is 'open_clip/ViT-B-32' (extra open-clip)"
        )
    for file in files:
        if is_checked(file.name.lower()):  # file systems can be case-insensitive
            refuse_config(file)


def _refuse_pickles(folder: Path) -> None:
    """Refuse a folder from which a library would unpickle weights; libraries prefer safetensors of these names only."""
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
    """Whether a `.bin` file holds the raw weights of an OpenVINO graph."""
    return weights.name == "graph.bin" and weights.with_suffix(".xml").exists()


def files_in(path: Path) -> list[Path]:
    """Every file below a folder, sorted.

    Raises:
        ModelError: A link leads out of the folder, or an entry is neither a file nor a folder.
    """
    files: list[Path] = []
    seen = set()
    roots = _roots(path)
    for parent, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        for name in (*folders, *names):
            _refuse_outside(Path(parent, name), roots)
        files += [Path(parent, name) for name in names]
    return sorted(files)


def closed_folder(folder: Path, named: Path) -> Path:
    """`folder`, after checking that neither it nor a link in it leads out of the folder `named` by the user.

    Raises:
        ModelError: One of them does.
    """
    if folder not in (named, in_place(named)):
        _refuse_outside(folder, _roots(named))
    files_in(folder)
    return folder


def _roots(path: Path) -> tuple[Path, ...]:
    """Folders that links of a model may point into: its own, and in the hub's cache its repository's blobs."""
    real = Path(os.path.realpath(path))
    for snapshot in (real, *real.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and repository.name.startswith("models--"):
            return real, repository / "blobs"
    return (real,)


def _refuse_outside(file: Path, roots: tuple[Path, ...]) -> None:
    """Refuse links that lead out of a model's folder, and pipes and devices, reading which may never end."""
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in roots):
        raise ModelError(f"'{file}' is a link to '{real}', which lies outside the model's folder; put a copy there")
    if real.exists() and not (stat.S_ISREG(mode := real.stat().st_mode) or stat.S_ISDIR(mode)):
        raise ModelError(f"'{file}' is neither a file nor a folder; remove it from the model's folder")
