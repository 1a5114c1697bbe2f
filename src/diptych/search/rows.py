"""Rows of the index: of a picture that was read and embedded, or of another path to content that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from diptych.data.containers import outside
from diptych.errors import ImageError
from diptych.images.decode import content_hash, decode, perceptual_hash, read_bytes
from diptych.images.exif import Facts, read_facts
from diptych.images.paths import path_id
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.search.sources import Item
from diptych.search.store import schema, vector_column

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder

Row = dict[str, Any]  # a value for each column of `store.schema`


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture on its way in. Without `features` only its bytes were read: its content is in the index already."""

    item: Item
    content: str
    facts: Facts | None = None
    phash: int | None = None
    features: dict[str, Any] | None = None


def prepare(
    item: Item,
    model: Callable[[], DualEncoder],
    image_size: int | None,
    is_there: Callable[[str], bool],
    roots: Roots = ANYWHERE,
) -> Prepared | Skipped:
    """Read a picture, and unless `is_there` says that its content is known, decode and preprocess it. For threads.

    Its path is checked again when it has been read: a link may have taken its place since it was listed.
    """
    try:
        data = read_bytes(item.picture)
        if isinstance(item.picture, Path) and not roots.hold(item.picture.absolute()):
            raise outside(item.path)
        content = content_hash(data)
        if is_there(content):
            return Prepared(item, content)
        image = decode(data, min_side=image_size)
    except ImageError as error:
        return Skipped(item.path, error.reason, str(error))
    return Prepared(item, content, read_facts(data), perceptual_hash(image), model().preprocess_images([image]))


def embed(batch: Sequence[Prepared], model: DualEncoder) -> np.ndarray:
    """The vectors of prepared pictures: (batch, dim) float16."""
    import torch

    with torch.inference_mode():
        features = {
            key: torch.cat([(each.features or {})[key] for each in batch]) if isinstance(value, torch.Tensor) else value
            for key, value in (batch[0].features or {}).items()
        }
        return model.embed(features).cpu().numpy().astype(np.float16)


def new_row(prepared: Prepared, vector: np.ndarray) -> Row:
    """The row of a picture that was embedded."""
    facts = asdict(prepared.facts) if prepared.facts else {}
    own = {"hash": prepared.content, "phash": prepared.phash, "caption": prepared.item.caption, "vector": vector}
    return {**place(prepared.item), **facts, **own}


def place(item: Item) -> Row:
    """The columns that say where a picture lies."""
    folder = item.path.rpartition("/")[0] or "/"
    return {"id": path_id(item.path), "path": item.path, "folder": folder, "size": item.size, "mtime": item.mtime}


def to_table(rows: Sequence[Row], dim: int) -> pa.Table:
    """Rows as the store takes them; columns that a row does not tell are null."""
    form = schema(dim)
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in list(form)[:-1]}
    vectors = np.stack([np.asarray(row["vector"], np.float16) for row in rows])  # (rows, dim)
    return pa.table({**columns, "vector": vector_column(vectors)}, schema=form)
