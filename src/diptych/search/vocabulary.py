"""Vocabulary: general phrases for what photographs show, used to name themes and as the cutoff's background."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from diptych.images.decode import content_hash
from diptych.models.onnx.text_graph import TextEncoder
from diptych.models.unknown_words import UnknownWordsWarning
from diptych.runtime.atomic import new_folder
from diptych.runtime.cache import cache_dir

_FILE = "vocabulary.txt"


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Some 600 phrases that can follow "a photo of": people, activities, animals, places, things."""
    lines = resources.files(__package__).joinpath(_FILE).read_text("utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def vocabulary_embeddings(texts: Callable[[], TextEncoder], identity: str) -> NDArray[np.float32]:
    """The unit embeddings of `vocabulary()` by a model, (phrases, dim), computed once and kept in the cache folder.

    `identity` is `DualEncoder.fingerprint()`, under which they are kept. `texts` is called only to compute them.
    """
    words = content_hash("\n".join(vocabulary()).encode())[:8]
    folder = cache_dir() / "vocabulary" / f"{identity}-{words}"
    if not folder.exists():
        with new_folder(folder) as new, warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownWordsWarning)  # of a vocabulary that nobody asked for
            np.save(new / "vectors.npy", texts().encode_texts(vocabulary()))
    return np.load(folder / "vectors.npy")
