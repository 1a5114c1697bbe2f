"""Loading sentence-transformers models from a directory: allowed classes and local files only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import nn

from diptych.models.checkpoints import files_in, loading, refuse_unsafe
from diptych.models.safety import module_class, module_types
from diptych.runtime.device import pick_device
from diptych.runtime.quiet import quiet

Arguments = dict[str, Any]
"""Keyword arguments of a library's constructor, which takes values of many types."""

LOCAL: Arguments = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every `from_pretrained` of transformers: no network, no code of the checkpoint, no prompt."""

WEIGHTS: Arguments = {**LOCAL, "use_safetensors": True}
"""`LOCAL` for models with weights: safetensors only."""


def load_modules(path: Path, what: str, device: str = "auto") -> SentenceTransformer:
    """Load a sentence-transformers model.

    sentence-transformers itself would import whatever classes the files name.

    Args:
        path: The model's directory.
        what: What is being loaded, for messages.
        device: `auto` or a torch device.

    Raises:
        ModelError: A file is damaged or not allowed, or the weights are not safetensors.
    """
    refuse_unsafe(path)
    on = str(pick_device(device))
    with loading(what), quiet():
        if not (path / "modules.json").exists():
            return SentenceTransformer(
                str(path), device=on, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        modules, kwargs = _modules(path)
        model = SentenceTransformer(modules=modules, device=on, **_settings(path))
        model.module_kwargs = kwargs
    return model


def _modules(path: Path) -> tuple[list[nn.Module], dict[str, list[str]]]:
    """The modules in `modules.json`, and the arguments of `encode` that each accepts, by its position."""
    classes = {
        name: module_class(name)
        for file in files_in(path)
        if file.name.lower() in ("modules.json", "router_config.json", "config.json")
        for name in module_types(file)
    }
    modules: list[nn.Module] = []
    kwargs = {}
    for entry in json.loads((path / "modules.json").read_text("utf-8")):
        kind = classes[entry["type"]]
        known: Arguments = {"module_classes": classes} if issubclass(kind, Router) else {}
        kwargs[str(len(modules))] = entry.get("kwargs", [])
        modules.append(
            kind.load(str(path), subfolder=entry["path"], model_kwargs={"use_safetensors": True}, **LOCAL, **known)
        )
    return modules, kwargs


def _settings(path: Path) -> Arguments:
    """Prompts and similarity function of `config_sentence_transformers.json`, if the directory has one."""
    file = path / "config_sentence_transformers.json"
    settings = json.loads(file.read_text("utf-8")) if file.exists() else {}
    names = ("prompts", "default_prompt_name", "similarity_fn_name")
    return {name: settings[name] for name in names if settings.get(name) is not None}
