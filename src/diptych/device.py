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
