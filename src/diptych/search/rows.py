"""Rows of an index: from images that were read and embedded, or for other paths to known content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.errors import ImageError
from diptych.images.decode import content_hash, decode, memory_for, perceptual_hash, read_bytes
from diptych.images.exif import ImageMetadata, read_image_metadata
from diptych.images.paths import path_id
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.search.sources import Item
from diptych.search.store import embedding_column, schema

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

Row = dict[str, Any]  # a value for each column of `store.schema`


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image that was read. `features` are the model's inputs; None if the index has its content already."""

    item: Item
    content: str
    facts: ImageMetadata | None = None
    phash: int | None = None
    features: dict[str, Any] | None = None


def prepare_image(
    item: Item,
    model: Callable[[], DualEncoder],
    image_size: int | None,
    is_known: Callable[[str], bool],
    roots: Roots = ANYWHERE,
) -> PreparedImage | Skipped:
    """Read an image and, unless `is_known(content hash)`, decode and preprocess it. Safe to call in threads.

    The file that is opened must lie inside `roots`, even if a link has replaced it since it was found.
    """
    try:
        with memory_for(item.image):
            return _read_image(item, model, image_size, is_known, roots)
    except ImageError as error:
        return Skipped(item.path, error.reason, str(error))


def _read_image(
    item: Item,
    model: Callable[[], DualEncoder],
    image_size: int | None,
    is_known: Callable[[str], bool],
    roots: Roots,
) -> PreparedImage:
    data = read_bytes(item.image, roots=roots if isinstance(item.image, Path) else ANYWHERE)
    content = content_hash(data)
    if is_known(content):
        return PreparedImage(item, content)
    image = decode(data, min_side=image_size)
    return PreparedImage(
        item, content, read_image_metadata(data), perceptual_hash(image), model().preprocess_images([image])
    )


def embed_images(batch: Sequence[PreparedImage], model: DualEncoder) -> NDArray[np.float16]:
    """The unit embeddings of prepared images, (batch, dim)."""
    import torch

    inputs = [image.features or {} for image in batch]
    with torch.inference_mode():
        features = {
            key: torch.cat([image[key] for image in inputs]) if isinstance(value, torch.Tensor) else value
            for key, value in inputs[0].items()
        }
        return model.embed(features).cpu().numpy().astype(np.float16)


def image_row(image: PreparedImage, embedding: NDArray[np.floating]) -> Row:
    """The row of an image that was embedded."""
    facts = asdict(image.facts) if image.facts else {}
    content = {"hash": image.content, "phash": image.phash, "caption": image.item.caption, "vector": embedding}
    return {**file_columns(image.item), **facts, **content}


def file_columns(item: Item) -> Row:
    """The columns that describe the file: id, path, folder, size and time."""
    folder = item.path.rpartition("/")[0] or "/"
    return {"id": path_id(item.path), "path": item.path, "folder": folder, "size": item.size, "mtime": item.mtime}


def to_table(rows: Sequence[Row], dim: int) -> pa.Table:
    """Rows as an Arrow table of the store's schema; columns that a row lacks are null."""
    columns = schema(dim)
    arrays = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in list(columns)[:-1]}
    embeddings = np.stack([np.asarray(row["vector"], np.float16) for row in rows])  # (rows, dim)
    return pa.table({**arrays, "vector": embedding_column(embeddings)}, schema=columns)
