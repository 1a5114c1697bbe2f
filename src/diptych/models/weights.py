"""Weights of small modules as safetensors: saved in full or half precision, read in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_weights(path: str | Path, weights: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write tensors by name to a safetensors file; with `half`, in half precision."""
    from safetensors.torch import save_file

    saved = {name: (tensor.half() if half else tensor).contiguous().cpu() for name, tensor in weights.items()}
    save_file(saved, path, metadata={"format": "pt"})


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, in single precision on the CPU.

    Raises:
        OSError: There is no such file.
        safetensors.SafetensorError: It is damaged.
    """
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(path).items()}
