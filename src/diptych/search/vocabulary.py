"""General words for what photographs show: names for themes, and the background that a query must stand out from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources

import numpy as np

from diptych.images.decode import content_hash
from diptych.models.onnx.text_graph import TextEncoder
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

_FILE = "vocabulary.txt"


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Some 600 phrases, each as it stands after "a photo of": people, activities, animals, places, things."""
    lines = resources.files(__package__).joinpath(_FILE).read_text("utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def vocabulary_vectors(texts: Callable[[], TextEncoder], identity: str) -> np.ndarray:
    """The unit vectors of `vocabulary()` by a model: (phrases, dim) float32, kept on disk for the next time.

    `identity` is the model's, by which they are kept.
    """
    words = content_hash("\n".join(vocabulary()).encode())[:8]
    folder = cache_dir() / "vocabulary" / f"{identity}-{words}"
    if not folder.exists():
        with new_folder(folder) as new:
            np.save(new / "vectors.npy", texts().encode_texts(vocabulary()))
    return np.load(folder / "vectors.npy")
