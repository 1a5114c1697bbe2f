"""Device selection: CUDA, MPS or CPU, its bfloat16 support, and memory settings of the CPU."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

from diptych.errors import ConfigError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def pick_device(name: str = "auto") -> torch.device:
    """The torch device of a name; `auto` prefers CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: torch has no device of this name.
    """
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(
                f"unknown device '{name}'; valid: auto, cpu, mps, cuda, or cuda:1 for the second GPU"
            ) from error
    elif torch.cuda.is_available():
        device = torch.device("cuda")
    else:
        device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively; processors without support emulate it many times slower."""
    if device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system; does nothing with other C libraries.

    By default every activation over 32 MB is mapped, zeroed page by page and unmapped at each step, which takes a third
    to a half of a convolutional tower's time on the CPU.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_MMAP_THRESHOLD, 2**30)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
