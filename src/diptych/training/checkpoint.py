"""The files from which a run continues: the checkpoint of the trainer, and the best weights of a module."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TypedDict, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from diptych.errors import ConfigError
from diptych.runtime.atomic import new_file

CHECKPOINT = "checkpoint.pt"
BEST = "best.safetensors"
COUNTERS = ("step", "best_epoch", "best", "history", "losses", "elapsed", "log_size")
"""The attributes of a `Trainer` that a checkpoint holds beside tensors."""

# The exceptions of torch on files that are damaged or not a checkpoint.
DAMAGED = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, RecursionError),
    pickle.UnpicklingError,
)


class Checkpoint(TypedDict):
    """The content of a checkpoint."""

    state: dict[str, Tensor]
    """The tensors that training changes."""
    average: dict[str, Tensor]
    """The moving average of the weights; empty without EMA."""
    optimizer: dict[str, object]
    random: Tensor
    random_cuda: list[Tensor]
    numbers: str
    """The `COUNTERS`, as JSON."""


def read_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Read a checkpoint of `Trainer`; only tensors and plain values are unpickled.

    Args:
        path: the file.
        mapped: memory-map the tensors, which is enough to validate the file.

    Raises:
        ConfigError: the file is damaged or not a checkpoint of diptych.
    """
    try:
        return _checked(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except DAMAGED as error:
        raise ConfigError(
            f"'{path}' is not a checkpoint of diptych, or is damaged ({type(error).__name__}); restore a copy, "
            "or start again in another folder with `out`"
        ) from error


def _checked(saved: object) -> Checkpoint:
    if not isinstance(saved, dict):
        raise TypeError("not a mapping")
    counters = json.loads(saved["numbers"])
    if set(counters) != set(COUNTERS) or not {"random", "random_cuda"} <= set(saved):
        raise ValueError("other keys")
    if any(type(counters[name]) is not int or counters[name] < 0 for name in ("step", "log_size")):
        raise ValueError("invalid counters")
    if not all(isinstance(saved[name], dict) for name in ("state", "average", "optimizer")):
        raise ValueError("invalid state")
    if not all(torch.is_tensor(value) for part in ("state", "average") for value in saved[part].values()):
        raise ValueError("invalid weights")
    return cast(Checkpoint, saved)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights of a module as safetensors, atomically."""
    with new_file(path) as temporary:
        save_model(module, str(temporary))


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    read_weights(path)
    load_model(module, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file of a run, by name.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (*DAMAGED, SafetensorError) as error:
        raise ConfigError(
            f"'{path}' is missing or damaged; remove the folder '{path.parent}' and resume to train that part again"
        ) from error
