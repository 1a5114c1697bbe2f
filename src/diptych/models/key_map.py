"""Key maps: parameters of modules that were renamed, from the names in saved weights to the current ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn


def renamed_keys(weights: Mapping[str, Tensor], renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    r"""`weights` with every (pattern, replacement) of `renames` applied to its keys, in order.

    Patterns are regular expressions that must match the whole key. Keys that match none are kept.

    >>> list(renamed_keys({"body.1.weight": 0, "bias": 1}, [(r"body\.(.*)", r"mlp.\1")]))
    ['mlp.1.weight', 'bias']
    """
    renamed = {}
    for key, tensor in weights.items():
        for pattern, replacement in renames:
            if match := re.fullmatch(pattern, key):
                key = match.expand(replacement)
        renamed[key] = tensor
    return renamed


def load_renamed(
    module: nn.Module, renames: Sequence[tuple[str, str]], *, split: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> None:
    """Let `module.load_state_dict` accept weights that were saved under earlier parameter names.

    Args:
        module: The module whose parameters were renamed.
        renames: (pattern, replacement) pairs, as in `renamed_keys`.
        split: Parameters that are several now, by the last part of their path after renaming: `kv_proj` to `k_proj` and
            `v_proj`. The saved tensor is cut into equal chunks along its first axis.
    """
    module.register_load_state_dict_pre_hook(partial(_upgrade, renames=renames, split=split))


def _upgrade(
    _module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    *_: object,
    renames: Sequence[tuple[str, str]],
    split: Mapping[str, Sequence[str]],
) -> None:
    own = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    for key, tensor in renamed_keys(own, renames).items():
        path, name, parameter = _last_parts(key)
        parts = split.get(name, (name,))
        for part, chunk in zip(parts, tensor.chunk(len(parts)) if len(parts) > 1 else [tensor], strict=True):
            state[f"{prefix}{path}{part}{parameter}"] = chunk


def _last_parts(key: str) -> tuple[str, str, str]:
    """A key as path, module name and parameter name: `a.b.weight` to (`a.`, `b`, `.weight`)."""
    head, dot, parameter = key.rpartition(".")
    path, middle, name = head.rpartition(".")
    return f"{path}{middle}", name, f"{dot}{parameter}"
