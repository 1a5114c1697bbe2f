"""Indexes with rows made by hand, for searches whose hits are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.images.paths import path_id
from diptych.models.dual_encoder import DualEncoder
from diptych.search.index import Index, ModelIdentity, Store
from diptych.search.rows import to_table


def index_of(folder: Path, rows: Sequence[dict[str, Any]], model: DualEncoder | None = None) -> Index:
    """An index in `folder` of these rows; a row needs a `path` and a `vector`, all else has a usual value."""
    dim = model.dim if model else len(rows[0]["vector"])
    store = Store.create(folder, ModelIdentity("(by hand)", model.fingerprint() if model else None, dim))
    whole = [_whole(row) for row in rows]
    store.add(to_table(whole, dim))
    return Index(folder, model) if model else Index(folder)


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    usual = {
        **{"id": path_id(row["path"]), "folder": row["path"].rpartition("/")[0] or "/", "hash": path_id(row["path"])},
        **{"size": 1_000, "mtime": 1_600_000_000 * 10**9, "width": 400, "height": 300},
    }
    vector = np.asarray(row["vector"], np.float64)
    return {**usual, **row, "vector": vector / np.linalg.norm(vector)}
