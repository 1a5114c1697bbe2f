"""Pictures to vectors on disk: decoding beside the model, bounded memory, resumable; one writer for every cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.pairs import Pairs, Row
from diptych.errors import ImageError
from diptych.images.decode import Picture, decode
from diptych.models.dual_encoder import DualEncoder
from diptych.runtime.atomic import storing, write_text
from diptych.runtime.background import prefetch
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent


class VectorFile:
    """Rows of vectors in one `.npy` file, written in order, memory-mapped when read, and complete or resumable.

    A row whose picture could not be decoded holds NaN. Rows count as written only once `state.json` says so, which is
    replaced atomically after the data is on disk; so a killed run continues at the last acknowledged row.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self._data, self._state = folder / "vectors.npy", folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.done = json.loads(self._state.read_text("utf-8"))["done"] if self._state.exists() else 0
        self._mapped: np.memmap | None = None

    @property
    def complete(self) -> bool:
        return self.done >= self.shape[0]

    def append(self, vectors: np.ndarray) -> None:
        """Write the next rows and acknowledge them."""
        if self._mapped is None:
            fresh = not self._state.exists()
            with storing(self._data, "it is begun anew"):
                self._mapped = np.lib.format.open_memmap(
                    self._data, mode="w+" if fresh else "r+", dtype=self.dtype if fresh else None, shape=self.shape
                )
                _reserve(self._data)
        self._mapped[self.done : self.done + len(vectors)] = vectors
        self._mapped.flush()
        self.done += len(vectors)
        write_text(self._state, json.dumps({"done": self.done, "shape": self.shape}))

    def read(self) -> np.ndarray:
        """All rows, memory-mapped; what is written to them stays in memory."""
        if self.shape[0] == 0:
            return np.empty(self.shape, self.dtype)
        return np.load(self._data, mmap_mode="c")  # writable, which spares torch a copy; nothing reaches the file


def _reserve(path: Path) -> None:
    """Take the blocks of a mapped file from the disk: later there is no error where it is full, but a bus error."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_vectors(
    sink: VectorFile,
    items: Sequence[Any],
    prepare: Callable[[Sequence[Any]], Any],
    forward: Callable[[Any], np.ndarray],
    *,
    batch_size: int = 64,
    progress: Progress = silent,
    label: str = "embedding",
) -> np.ndarray:
    """Fill `sink` with `forward(prepare(items))`: preparation runs in threads ahead of the forward pass.

    Begins after the rows that `sink` has already; returns all rows, memory-mapped.
    """
    starts = range(sink.done, len(items), batch_size)
    batches = (items[start : start + batch_size] for start in starts)
    for prepared in progress(prefetch(batches, prepare), len(starts), label):
        sink.append(forward(prepared))
    return sink.read()


def decode_all(pictures: Iterable[Picture], min_side: int | None) -> tuple[list[Any], np.ndarray]:
    """Decode pictures; those that cannot be are left out. Returns the decoded and, (pictures,) bool, which they are."""
    decoded, good = [], []
    for picture in pictures:
        try:
            decoded.append(decode(picture, min_side=min_side))
            good.append(True)
        except ImageError:
            good.append(False)
    return decoded, np.array(good, bool)


def picture_vectors(
    model: DualEncoder, pairs: Pairs, *, batch_size: int = 64, progress: Progress = silent, cache: bool = True
) -> np.ndarray:
    """Unit vectors of every picture of a data set, (pictures, dim) float32; NaN where one cannot be decoded.

    Kept on disk under the identities of model and data, and used again. With `cache=False` they are written anew.
    """
    import torch

    folder = cache_dir() / "vectors" / f"{model.identity()}-{pairs.fingerprint()}"
    sink = VectorFile(folder, (len(pairs), model.dim))
    if not cache:
        sink.done = 0

    def prepare(rows: Sequence[Row]) -> tuple[dict[str, Any] | None, np.ndarray]:
        images, good = decode_all((row.image for row in rows), model.image_size)
        return (model.preprocess_images(images) if images else None), good

    def forward(prepared: tuple[dict[str, Any] | None, np.ndarray]) -> np.ndarray:
        features, good = prepared
        vectors = np.full((len(good), model.dim), np.nan, np.float32)
        if features is not None:
            with torch.inference_mode():
                vectors[good] = model.embed(features).cpu().numpy()
        return vectors

    return write_vectors(
        sink, pairs, prepare, forward, batch_size=batch_size, progress=progress, label="embedding pictures"
    )
