"""A model's directory: where it lies, and what in it is refused because it could run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.errors import ModelError

BOX = Path(__file__).parent / "box"
"""The models that are part of the package, each a directory by its name."""

_SIGNS = ("modules.json", "config.json", "open_clip_config.json")
_GRAPHS = ("graph.onnx", "graph.xml")  # of an exported tower; OpenVINO has its weights in `graph.bin`, no pickle
FETCHED = ("*.json", "*.txt", "*.safetensors", "*.model", "*.jinja", *(f"*{name}" for name in (*_GRAPHS, "graph.bin")))


def model_directory(name: str | Path) -> Path:
    """The local directory of a model: one in the box, itself, the `model` folder of a run, or a download from the hub.

    A name that is in the box means that one; a directory of the same name is `./NAME`.

    Raises:
        ModelError: it is none of these, or cannot be fetched.
    """
    if isinstance(name, str) and name in boxed():
        return BOX / name
    path = Path(name)
    if (found := _model_in(path)) is not None:
        return found
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise ModelError(
            f"'{name}' is not a model: it has neither modules.json nor config.json nor open_clip_config.json. "
            f"Pass {', '.join(map(repr, boxed()))}, the folder of a training run, a model directory, or "
            "a hub name such as google/siglip2-base-patch16-224"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        fetched = Path(snapshot_download(str(name), allow_patterns=list(FETCHED)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # the last: it cannot be a name there
        raise ModelError(
            f"cannot fetch '{name}' from the hub: {str(error).splitlines()[0]}; check the name and the network, "
            "or pass a local directory"
        ) from error
    return _model_in(fetched) or fetched


def _model_in(path: Path) -> Path | None:
    """The folder itself or its `model`, as a run and an endpoint have it; None where neither is a model."""
    candidates = (path, path / "model")
    return next((folder for folder in candidates if any((folder / sign).exists() for sign in _SIGNS)), None)


def boxed() -> list[str]:
    """The names of the models in the box."""
    return sorted(entry.name for entry in BOX.iterdir() if entry.is_dir()) if BOX.exists() else []


def refuse_unsafe(path: Path) -> None:
    """Stop at weights that would be unpickled and at code that a checkpoint brings along.

    Raises:
        ModelError: there is either, or no safetensors; the message names the file or folder.
    """
    weights = [file for file in path.rglob("*.bin") if not _is_openvino(file)]
    folders = {file.parent for file in (*weights, *path.rglob("*.pt"))}
    for folder in sorted(folders):
        if not any(folder.glob("*.safetensors")) and (folder / "config.json").exists():
            raise ModelError(
                f"'{folder}' has weights only as a pickle, which can run code; convert them to model.safetensors "
                "(transformers: model.save_pretrained(folder))"
            )
    if not any(path.rglob("*.safetensors")) and not any(any(path.rglob(graph)) for graph in _GRAPHS):
        raise ModelError(
            f"'{path}' has no safetensors; weights as a pickle can run code and are not read. Look for a copy that has "
            "them: OpenAI's CLIP, say, is 'open_clip/ViT-B-32' (extra open-clip)"
        )
    for config in path.rglob("*config*.json"):  # tokenizers and processors can ask too, each in a file of its own
        if _asks_for_code(config):
            raise ModelError(f"'{config}' asks for code of its own (auto_map), which diptych does not run")


def _asks_for_code(config: Path) -> bool:
    """Whether a configuration names classes by `auto_map`, at whatever depth; they may lie in another repository."""
    text = config.read_text("utf-8", errors="replace")
    try:
        return _has_key(json.loads(text), "auto_map")  # parsed, since JSON can spell a key in escapes
    except (ValueError, RecursionError):
        return "auto_map" in text


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(each, key) for each in value.values())
    return isinstance(value, list) and any(_has_key(each, key) for each in value)


def _is_openvino(weights: Path) -> bool:
    """Whether a `.bin` is the plain numbers of an OpenVINO graph."""
    return weights.name == "graph.bin" and weights.with_suffix(".xml").exists()


def has_our_modules(path: Path) -> bool:
    """Whether a checkpoint names module classes of diptych, and of nobody else.

    sentence-transformers imports a class outside itself only with `trust_remote_code`, and would then also run Python
    files that lie in the checkpoint; so their presence is refused.

    Raises:
        ModelError: a class of somebody else is named, or ours beside Python files.
    """
    types: list[str] = []
    for config in (*path.rglob("modules.json"), *path.rglob("router_config.json")):
        content = json.loads(config.read_text("utf-8"))
        types += content["types"].values() if isinstance(content, dict) else [entry["type"] for entry in content]
    ours = [name for name in types if name.startswith("diptych.")]
    foreign = [name for name in types if not name.startswith(("diptych.", "sentence_transformers."))]
    if foreign or (ours and any(path.rglob("*.py"))):
        raise ModelError(f"'{path}' needs code that is not diptych's ({', '.join(foreign) or 'Python files'}); not run")
    return bool(ours)
