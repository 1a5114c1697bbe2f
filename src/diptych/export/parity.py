"""Whether an exported tower gives the vectors of the original, and how much faster it is."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.errors import ModelError
from diptych.models.dual_encoder import DualEncoder
from diptych.models.truncation import TextCutWarning

_BATCH = {"image": 8, "text": 32}
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far vectors may be off: the least and the mean cosine of old and new, and the largest difference of a number.

    In eight bits a single unusual picture may lie further off than the rest, so the mean counts too.
    """

    least_cosine: float
    mean_cosine: float
    largest_difference: float


TOLERANCES = {"fp32": Tolerance(0.9999, 0.99999, 1e-3), "int8": Tolerance(0.9, 0.98, 0.2)}


@dataclass(frozen=True, slots=True)
class Parity:
    """One of `image`, `text` and `captioner` before and after.

    How near the unit vectors are, over `checked` inputs, and inputs a second.
    """

    name: str
    checked: int
    least_cosine: float
    mean_cosine: float
    largest_difference: float
    rate_before: float
    rate_after: float


def measure(before: DualEncoder, after: DualEncoder, modality: str, inputs: Sequence[Any]) -> Parity:
    """Embed pictures or texts by both models, each with its own preprocessing, and compare; then time both in turn."""
    encode: dict[str, Callable[..., np.ndarray]] = {
        "image": lambda model, size: model.encode_images(inputs, batch_size=size),
        "text": lambda model, size: model.encode_texts(inputs, batch_size=size),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # both cut alike
        # Batches of two sizes, so that a graph which was traced for one size alone is found out.
        old, new = encode[modality](before, _BATCH[modality]), encode[modality](after, 5)  # (inputs, dim)
    if old.shape != new.shape:
        raise ModelError(f"the exported {modality} tower gives vectors of {new.shape[1]} numbers, not {old.shape[1]}")
    return of_vectors(modality, old, new, _rates(before, after, modality, inputs[: _BATCH[modality]]))


def of_vectors(name: str, old: np.ndarray, new: np.ndarray, rates: tuple[float, float]) -> Parity:
    """How near new unit vectors are to the old ones, both (inputs, dim)."""
    cosines = (old.astype(np.float64) * new).sum(axis=1)
    return Parity(name, len(old), float(cosines.min()), float(cosines.mean()), float(np.abs(old - new).max()), *rates)


def refuse_if_off(parity: Parity, tolerance: Tolerance) -> None:
    """Raise ModelError, with the figures, where an exported tower is outside the tolerance. NaN is outside."""
    found = f"least cosine {parity.least_cosine:.5f}, mean {parity.mean_cosine:.5f}, "
    found += f"largest difference {parity.largest_difference:.1e}"
    good = (
        parity.least_cosine >= tolerance.least_cosine
        and parity.mean_cosine >= tolerance.mean_cosine
        and parity.largest_difference <= tolerance.largest_difference
    )
    if not good:
        raise ModelError(
            f"the exported {parity.name} graph does not give the model's vectors ({found}; allowed are "
            f"{tolerance.least_cosine}, {tolerance.mean_cosine} and {tolerance.largest_difference}); nothing was "
            "written. For int8, --data with more of your own pictures calibrates it better; fp32 needs no calibration"
        )


def prepared(encoder: DualEncoder, modality: str, inputs: Sequence[Any]) -> dict[str, Any]:
    """Images or texts, as `modality` says, preprocessed by the encoder."""
    return encoder.preprocess_images(inputs) if modality == "image" else encoder.preprocess_texts(inputs)


def _rates(before: DualEncoder, after: DualEncoder, modality: str, inputs: Sequence[Any]) -> tuple[float, float]:
    """Inputs a second of both, alternated, medians; preprocessing is the same for both and left out."""
    features = prepared(before, modality, inputs)
    with torch.inference_mode():
        first, second = in_turn(lambda: before.embed(dict(features)), lambda: after.embed(dict(features)))
    return len(inputs) / first, len(inputs) / second


def in_turn(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[float, float]:
    """The median seconds of two jobs that are done in turn."""
    spans: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 1):  # the first warms up
        for work, span in zip((one, other), spans, strict=True):
            began = time.perf_counter()
            work()
            if turn:
                span.append(time.perf_counter() - began)
    return statistics.median(spans[0]), statistics.median(spans[1])
