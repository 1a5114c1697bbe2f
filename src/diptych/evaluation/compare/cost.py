"""The cost of a model: parameters, size on disk, throughput, and memory."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from diptych.models.dual_encoder import DualEncoder

_ROUNDS = 7
_ENOUGH_SECONDS = 20.0  # fewer rounds for a slow model


def encoder_cost(encoder: DualEncoder, images: Sequence[Image.Image], texts: Sequence[str]) -> dict[str, float | None]:
    """Throughput of a dual encoder on one batch of each kind, parameter counts, and sizes.

    Rates include preprocessing and are from the median of up to seven rounds after a warm-up round.

    Args:
        encoder: the model.
        images: a batch of decoded images.
        texts: a batch of texts.

    Returns:
        `images_per_second`, `texts_per_second`, `parameters`, `image_parameters`, `text_parameters`, `dim`,
        `image_size` (pixels), `picture_batch` and `text_batch`.
    """
    image_seconds = _median_seconds(lambda: encoder.encode_images(images, batch_size=len(images)))
    text_seconds = _median_seconds(lambda: encoder.encode_texts(texts, batch_size=len(texts)))
    return {
        "images_per_second": len(images) / image_seconds,
        "texts_per_second": len(texts) / text_seconds,
        "parameters": parameters_of(encoder.model),
        "image_parameters": sum(map(parameters_of, encoder.route("image"))),
        "text_parameters": sum(map(parameters_of, encoder.route("text"))),
        "dim": encoder.dim,
        "image_size": encoder.image_size,
        "picture_batch": len(images),
        "text_batch": len(texts),
    }


def parameters_of(module: torch.nn.Module) -> int:
    """Number of parameters; shared weights count once."""
    return sum(weight.numel() for weight in module.parameters())


def bytes_on_disk(folder: Path) -> int:
    """Size of the files below a folder in bytes. Links are followed; a file with several names counts once."""
    files = {path.resolve() for path in folder.rglob("*") if path.is_file()}
    return sum(file.stat().st_size for file in files)


def machine(device: torch.device) -> dict[str, str | int | float | None]:
    """Hardware and versions; `load` is the load average of the last minute per core, None if unknown."""
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
    """Resident memory of this process in bytes; None where the system does not report it."""
    return _status("VmRSS")


def memory_peak() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not report it.

    Read from `VmHWM` on Linux, since `ru_maxrss` is inherited from the parent process.
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


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and (len(seconds) < 3 or sum(seconds) < _ENOUGH_SECONDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            pass
    return platform.processor() or platform.machine()
