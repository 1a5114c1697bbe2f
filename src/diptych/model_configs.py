"""What a model's configurations may not ask for: code, pickles, another model, or a class that is not known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.errors import ModelError

OUR_MODULES = frozenset(
    {
        "diptych.heads.ResidualHead",
        "diptych.towers.ResidualHead",  # where it once stood
        "diptych.export.tower.ExportedTower",
        "diptych.open_clip_towers.OpenClipImage",
        "diptych.open_clip_towers.OpenClipText",
    }
)

# Arguments of transformers' and timm's loaders that a configuration would hand on: they choose which file is read, how
# it is unpickled, or whose code.
_LOADING = frozenset(
    {
        *("weights_only", "use_safetensors", "variant", "gguf_file", "state_dict", "config", "adapter_kwargs"),
        *("code_revision", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    }
)
_SAFE_WEIGHTS = (".safetensors", ".safetensors.index.json")


def refuse_config(file: Path) -> None:
    """Stop at a configuration that would run code, have something unpickled, or fetch another model.

    The libraries read a configuration as theirs wherever it lies, so every one is held to the same rules.

    Raises:
        ModelError: it does; the message names the file and the setting.
    """
    content = file.read_bytes()
    try:
        told = json.loads(content)  # parsed, since JSON can spell a key in escapes
    except (ValueError, RecursionError):
        if b"auto_map" in content:
            raise ModelError(f"'{file}' is no valid JSON and speaks of auto_map, code of its own; not run") from None
        return
    for parent, key, value in _settings(told):
        if reason := _reason(parent, key, value):
            raise ModelError(f"'{file}' {reason}")
    if isinstance(told, dict):
        _refuse_classes(file, told)


def _settings(told: Any) -> Iterator[tuple[str, str, Any]]:
    """Every setting at whatever depth, with the name under which it lies."""
    waiting = [("", told)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield name, key, inner
                waiting.append((key, inner))
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]


def _reason(parent: str, key: str, value: Any) -> str | None:
    """Why a setting is refused; None where it is not."""
    if key in ("auto_map", "trust_remote_code") and value:  # the classes may lie in another repository
        return f"asks for code of its own ({key}), which diptych does not run"
    if key in _LOADING and parent.endswith(("_args", "_kwargs")):
        return f"sets {parent}.{key}, by which pickles could be read; remove it if you trust the model"
    if key == "transformers_weights" and value and not str(value).endswith(_SAFE_WEIGHTS):
        return f"names the weights '{value}', which are no safetensors; convert them to model.safetensors"
    if key == "architecture" and ":" in str(value):
        return f"names the architecture '{value}', which lies elsewhere; name one of timm's own"
    if parent == "weight_map" and not str(value).endswith(".safetensors"):
        return f"names the weights '{value}', which are no safetensors; convert them to model.safetensors"
    return None


def _refuse_classes(file: Path, told: dict[str, Any]) -> None:
    """Stop at the names of classes which sentence-transformers would import and call, unless they are known."""
    activation = told.get("activation_function")
    of_dense = "in_features" in told or "." in str(activation)  # transformers' own are words such as "gelu_new"
    if activation is not None and of_dense and not _is_activation(activation):
        raise ModelError(
            f"'{file}' names the activation function '{activation}', which is no module of torch.nn and is not "
            "imported; train the model with one of those, such as torch.nn.modules.activation.GELU"
        )
    tokenizer = told.get("tokenizer_class")
    if "." in str(tokenizer) and not str(tokenizer).startswith("sentence_transformers."):
        raise ModelError(f"'{file}' names the tokenizer '{tokenizer}', which is of another package; not imported")


def _is_activation(name: Any) -> bool:
    """Whether a name is that of a module in `torch.nn`, by either of its paths."""
    from torch import nn

    found = re.fullmatch(r"torch\.nn\.(?:modules\.[a-z_]+\.)?(\w+)", str(name))
    kind = getattr(nn, found[1], None) if found else None
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def module_types(file: Path) -> list[str]:
    """The classes of the modules that a `modules.json` or a Router's configuration names; none for another file.

    Raises:
        ModelError: a class is neither of sentence-transformers nor of `OUR_MODULES`, or the file is not of the form.
    """
    try:
        told = json.loads(file.read_bytes())
        if file.name.lower() == "modules.json":
            types = [str(entry["type"]) for entry in told]
        else:
            types = [str(name) for name in told.get("types", {}).values()] if isinstance(told, dict) else []
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        if file.name.lower() in ("modules.json", "router_config.json"):
            raise ModelError(f"'{file}' is no list of modules; fetch the model again") from error
        return []
    for name in types:
        if name not in OUR_MODULES and not _is_sentence_transformers_module(name):
            raise ModelError(f"'{file}' needs code of neither diptych nor sentence-transformers ({name}); not run")
    return types


def _is_sentence_transformers_module(name: str) -> bool:
    """Whether a dotted name is that of a module class of sentence-transformers, by any of its paths, older ones too."""
    from sentence_transformers.util import import_from_string
    from torch import nn

    if not re.fullmatch(r"sentence_transformers(\.[A-Za-z_]\w*)+", name):
        return False
    try:
        kind = import_from_string(name)
    except (ImportError, ValueError):
        return False
    return isinstance(kind, type) and issubclass(kind, nn.Module)
