"""Parity checks: whether an exported graph gives the embeddings of the original model, and how fast it is."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diptych.errors import ModelError, NextStep
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.truncation import TextCutWarning
from diptych.models.unknown_words import UnknownWordsWarning

ModelInputs: TypeAlias = Sequence[Image.Image] | Sequence[str]
"""Images or texts."""

_BATCH_SIZE = {"image": 8, "text": 32}
_EXPORTED_BATCH_SIZE = 5  # differs from the above: a graph traced for one batch size fails the check
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far embeddings may deviate: minimum and mean cosine of old and new, and largest difference of a component.

    In int8 a single unusual image may deviate more than the others, so the mean counts too.
    """

    min_cosine: float
    mean_cosine: float
    largest_difference: float


TOLERANCES = {"fp32": Tolerance(0.9999, 0.99999, 1e-3), "int8": Tolerance(0.9, 0.98, 0.2)}
"""The default tolerance of each precision."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of one exported graph (`image`, `text` or `captioner`) with the original network.

    The cosines and the largest absolute difference of a component are those of unit embeddings, over `checked` inputs.
    The rates are inputs per second.
    """

    name: str
    checked: int
    min_cosine: float
    mean_cosine: float
    largest_difference: float
    rate_before: float
    rate_after: float


def measure_parity(before: DualEncoder, after: DualEncoder, modality: str, inputs: ModelInputs) -> Parity:
    """Encode images or texts with both models, each with its own preprocessing; compare the embeddings and the speed.

    Raises:
        ModelError: the embeddings have different dimensions.
    """

    def encode(model: DualEncoder, batch_size: int) -> NDArray[np.float32]:
        if modality == "image":
            return model.encode_images(cast(Sequence[Image.Image], inputs), batch_size=batch_size)
        return model.encode_texts(cast(Sequence[str], inputs), batch_size=batch_size)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)  # both models truncate in the same way
        warnings.simplefilter("ignore", UnknownWordsWarning)  # and know the same words
        old = encode(before, _BATCH_SIZE[modality])  # (inputs, dim)
        new = encode(after, _EXPORTED_BATCH_SIZE)  # (inputs, dim)
    if old.shape != new.shape:
        raise ModelError(
            f"the exported {modality} tower gives embeddings of {new.shape[1]} dimensions instead of {old.shape[1]}"
        )
    return parity_of(modality, old, new, _rates(before, after, modality, inputs[: _BATCH_SIZE[modality]]))


def parity_of(name: str, old: NDArray[np.floating], new: NDArray[np.floating], rates: tuple[float, float]) -> Parity:
    """The parity of unit embeddings `old` and `new`, both (inputs, dim), and of two rates in inputs per second."""
    cosines = (old.astype(np.float64) * new).sum(axis=1)
    return Parity(name, len(old), float(cosines.min()), float(cosines.mean()), float(np.abs(old - new).max()), *rates)


def check_parity(parity: Parity, tolerance: Tolerance) -> None:
    """Check that an exported graph is within the tolerance; NaN is not.

    Raises:
        ModelError: it is not; the message has the numbers and the limits.
    """
    if (
        parity.min_cosine >= tolerance.min_cosine
        and parity.mean_cosine >= tolerance.mean_cosine
        and parity.largest_difference <= tolerance.largest_difference
    ):
        return
    raise ModelError(
        f"the exported {parity.name} graph does not reproduce the model's embeddings: minimum cosine "
        f"{parity.min_cosine:.5f} (limit {tolerance.min_cosine}), mean cosine {parity.mean_cosine:.5f} (limit "
        f"{tolerance.mean_cosine}), maximum difference {parity.largest_difference:.1e} (limit "
        f"{tolerance.largest_difference}). Nothing was written. For int8, calibrate with more of your own images, or "
        "use fp32",
        steps=[NextStep("name the images to calibrate with", "data")],
    )


def preprocess(encoder: DualEncoder, modality: str, inputs: ModelInputs) -> Features:
    """Images or texts, according to `modality`, preprocessed by the encoder."""
    if modality == "image":
        return encoder.preprocess_images(cast(Sequence[Image.Image], inputs))
    return encoder.preprocess_texts(cast(Sequence[str], inputs))


def _rates(before: DualEncoder, after: DualEncoder, modality: str, inputs: ModelInputs) -> tuple[float, float]:
    """Inputs per second of both networks; preprocessing, which is the same for both, is not included."""
    features = preprocess(before, modality, inputs)
    with torch.inference_mode():
        first, second = alternating_medians(lambda: before.embed(dict(features)), lambda: after.embed(dict(features)))
    return len(inputs) / first, len(inputs) / second


def alternating_medians(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The median seconds of two functions that are called alternately."""
    spans: tuple[list[float], list[float]] = ([], [])
    for i in range(_ROUNDS + 1):
        for function, times in zip((first, second), spans, strict=True):
            began = time.perf_counter()
            function()
            if i:  # the first round warms up
                times.append(time.perf_counter() - began)
    return statistics.median(spans[0]), statistics.median(spans[1])
