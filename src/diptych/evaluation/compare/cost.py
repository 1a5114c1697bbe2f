"""What a model costs: parameters, size on disk, time to load, pictures and texts a second, memory."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diptych.models.dual_encoder import DualEncoder

_ROUNDS = 7
_ENOUGH_SECONDS = 20.0  # a large model is not asked seven times


def encoder_cost(encoder: DualEncoder, images: Sequence[Any], texts: Sequence[str]) -> dict[str, Any]:
    """Pictures and texts a second, batch by batch as given, preprocessing included; parameters and dimension.

    Rates are of the median of up to seven rounds after one that does not count. Pictures are decoded already.
    """
    pictures = _median_seconds(lambda: encoder.encode_images(images, batch_size=len(images)))
    written = _median_seconds(lambda: encoder.encode_texts(texts, batch_size=len(texts)))
    return {
        "pictures_per_second": len(images) / pictures,
        "texts_per_second": len(texts) / written,
        "parameters": parameters_of(encoder.model),
        "image_parameters": sum(map(parameters_of, encoder.route("image"))),
        "text_parameters": sum(map(parameters_of, encoder.route("text"))),
        "dim": encoder.dim,
        "image_size": encoder.image_size,
        "picture_batch": len(images),
        "text_batch": len(texts),
    }


def parameters_of(module: torch.nn.Module) -> int:
    """Weights that are stored once count once."""
    return sum(weight.numel() for weight in module.parameters())


def bytes_on_disk(folder: Path) -> int:
    """Of all files below the folder; links count as what they lead to, and files that two names share count once."""
    files = {path.resolve() for path in folder.rglob("*") if path.is_file()}
    return sum(file.stat().st_size for file in files)


def machine(device: torch.device) -> dict[str, Any]:
    """Where it was measured; `load` is how many jobs wanted each of its cores in the minute before."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def memory_now() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not say."""
    return _status("VmRSS")


def memory_peak() -> int | None:
    """The most bytes that this process has held so far; None where the system does not say.

    Linux: `VmHWM` of /proc, since `ru_maxrss` of a process begins with that of the one that started it.
    """
    return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _median_seconds(work: Callable[[], Any]) -> float:
    work()
    taken: list[float] = []
    while len(taken) < _ROUNDS and (len(taken) < 3 or sum(taken) < _ENOUGH_SECONDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            pass
    return platform.processor() or platform.machine()
