"""Which device computes, and how its memory is kept."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def pick_device(name: str = "auto") -> torch.device:
    """The device by name; `auto` takes CUDA, then Apple's MPS, then the CPU."""
    if name != "auto":
        device = torch.device(name)
    elif torch.cuda.is_available():
        device = torch.device("cuda")
    else:
        device = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: processors without it emulate it, many times slower."""
    if device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc use freed memory again instead of giving it back to the system.

    By default every activation over 32 MB is mapped, zeroed page by page and unmapped at each step: a third to a half
    of a convolutional tower's time on the CPU. Other systems' allocators do not do that.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_MMAP_THRESHOLD, 2**30)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
