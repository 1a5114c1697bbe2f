"""Cached embeddings on disk: written in order with bounded memory, resumable, memory-mapped when read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.data.pairs import Pairs, Row
from diptych.errors import ImageError
from diptych.images.decode import ImageSource, decode
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.runtime.atomic import storing, write_text
from diptych.runtime.background import prefetch
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

Item = TypeVar("Item")
Batch = TypeVar("Batch")


class EmbeddingFile:
    """Rows of numbers in a `.npy` file that is written in order and can be resumed.

    The row of an image that cannot be decoded holds NaN. `state.json` counts the rows; it is replaced atomically after
    the data is on disk, so a killed run continues at the last row that it counts.

    Args:
        folder: Directory of the file; created if it does not exist.
        shape: Shape of the complete array, rows first.
        dtype: Type of the numbers.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self._data, self._state = folder / "vectors.npy", folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.done = json.loads(self._state.read_text("utf-8"))["done"] if self._state.exists() else 0
        self._mapped: np.memmap | None = None

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return self.done >= self.shape[0]

    def append(self, rows: NDArray[np.floating]) -> None:
        """Write the next rows and count them in `state.json`."""
        if self._mapped is None:
            is_new = not self._state.exists()
            with storing(self._data, "it is started again"):
                self._mapped = np.lib.format.open_memmap(
                    self._data, mode="w+" if is_new else "r+", dtype=self.dtype if is_new else None, shape=self.shape
                )
                _reserve(self._data)
        self._mapped[self.done : self.done + len(rows)] = rows
        self._mapped.flush()
        self.done += len(rows)
        write_text(self._state, json.dumps({"done": self.done, "shape": self.shape}))

    def read(self) -> NDArray[np.floating]:
        """All rows, memory-mapped copy-on-write: changes stay in memory."""
        if self.shape[0] == 0:
            return np.empty(self.shape, self.dtype)
        return np.load(self._data, mmap_mode="c")  # writable, so that torch need not copy; the file is not changed


def _reserve(path: Path) -> None:
    """Allocate a mapped file's blocks: on a full disk, writing to a sparse one would end in a bus error."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_embeddings(
    sink: EmbeddingFile,
    items: Sequence[Item],
    prepare: Callable[[Sequence[Item]], Batch],
    forward: Callable[[Batch], NDArray[np.floating]],
    *,
    batch_size: int = 64,
    progress: Progress = silent,
    label: str = "embedding",
) -> NDArray[np.floating]:
    """Fill `sink` with `forward(prepare(batch))` of each batch of `items` and return all rows, memory-mapped.

    Continues after the rows that `sink` already has.

    Args:
        sink: The file.
        items: One item for each row.
        prepare: Preprocesses a batch; runs in background threads.
        forward: Computes a batch's rows.
        batch_size: Items in a batch.
        progress: Wraps the batches.
        label: Label of the progress.
    """
    starts = range(sink.done, len(items), batch_size)
    batches = (items[start : start + batch_size] for start in starts)
    for prepared in progress(prefetch(batches, prepare), len(starts), label):
        sink.append(forward(prepared))
    return sink.read()


def decode_all(images: Iterable[ImageSource], min_side: int | None) -> tuple[list[Image.Image], NDArray[np.bool_]]:
    """Decode images, leaving out those that cannot be decoded.

    Returns:
        The decoded images, and a mask (images,) of those that were decoded.
    """
    decoded: list[Image.Image] = []
    good: list[bool] = []
    for image in images:
        try:
            decoded.append(decode(image, min_side=min_side))
            good.append(True)
        except ImageError:
            good.append(False)
    return decoded, np.array(good, bool)


def dataset_image_embeddings(
    model: DualEncoder, pairs: Pairs, *, batch_size: int = 64, progress: Progress = silent, cache: bool = True
) -> NDArray[np.floating]:
    """Embeddings of every image of a data set, (images, dim) float32; NaN for images that cannot be decoded.

    They are cached on disk under the fingerprints of model and data.

    Args:
        model: The dual encoder.
        pairs: The data set.
        batch_size: Images in one forward pass.
        progress: Wraps the batches.
        cache: Whether cached embeddings are used; otherwise they are computed again.
    """
    import torch

    folder = cache_dir() / "vectors" / f"{model.fingerprint()}-{pairs.fingerprint()}"
    sink = EmbeddingFile(folder, (len(pairs), model.dim))
    if not cache:
        sink.done = 0

    def prepare(rows: Sequence[Row]) -> tuple[Features | None, NDArray[np.bool_]]:
        images, good = decode_all((row.image for row in rows), model.image_size)
        return (model.preprocess_images(images) if images else None), good

    def forward(prepared: tuple[Features | None, NDArray[np.bool_]]) -> NDArray[np.floating]:
        features, good = prepared
        embeddings = np.full((len(good), model.dim), np.nan, np.float32)
        if features is not None:
            with torch.inference_mode():
                embeddings[good] = model.embed(features).cpu().numpy()
        return embeddings

    return write_embeddings(
        sink, pairs, prepare, forward, batch_size=batch_size, progress=progress, label="embedding images"
    )
