"""The rows whose vectors lie nearest to one: exactly in small tables, by the ANN index in large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.errors import ConfigError, ModelError
from diptych.search.store import Store

# Found by benchmarks/index_million.py: the share of the nearest ten that these lose is under 1%.
_PROBES = 50  # partitions looked into when every row counts: 5% of a million rows
_CANDIDATES = 8  # rows compared by their quantized vectors, a result
_REFINE = 4  # candidates fetched a result, to be compared by their full vectors


def nearest(
    store: Store,
    vector: np.ndarray,
    k: int,
    *,
    where: str | None = None,
    offset: int = 0,
    columns: Sequence[str] | None = None,
    exact: bool = False,
) -> pa.Table:
    """The `k` rows after the first `offset` of those nearest to `vector`, best first, ties by id.

    `vector` is (dim,) and need not have unit length. The column `score` is the cosine, in [-1, 1]; the others are
    `columns`, or all but the vector. `where` is an SQL condition that rows must meet; it is applied before the search,
    so that `k` rows come whenever so many meet it. Without an ANN index, or with `exact`, all rows are compared. With
    one, a filter never costs recall: the fewer rows it keeps, the more partitions are looked into.

    Raises:
        ModelError: the vector has another dimension than the index.
        ConfigError: `k` or `offset` is out of range, or the vector is zero or not finite.
    """
    unit = _unit(store, vector)
    if k < 1 or offset < 0:
        raise ConfigError(f"k is {k} and offset {offset}; k must be at least 1, offset at least 0")
    wanted = list(columns) if columns is not None else [name for name in store.table.schema.names if name != "vector"]
    rows = store.table.count_rows(where)
    partitions = 0 if exact else store.partitions
    count = offset + k
    probes = _probes(partitions, count, rows, len(store)) if partitions else None
    while True:
        found = _search(store, unit, min(count + 1, max(rows, 1)), where, probes, wanted)
        if found.num_rows <= count or found.num_rows >= rows or _is_settled(found, offset + k):
            break
        count *= 2  # the last places are tied: fetch the whole tie, so that pages neither repeat nor miss a row
    order = pc.sort_indices(found, sort_keys=[("score", "descending"), ("id", "ascending")])
    return found.take(order).slice(offset, k).select([*wanted, "score"])


def _unit(store: Store, vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float32)
    if vector.shape != (store.identity.dim,):
        raise ModelError(
            f"the query has the shape {vector.shape}; '{store.folder}' was made by '{store.identity.name}', "
            f"whose vectors have {store.identity.dim} dimensions: ask with that model"
        )
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0:
        raise ConfigError("the query's vector is zero or not finite; ask for something else")
    return vector / norm


def _probes(partitions: int, count: int, rows: int, all_rows: int) -> int:
    """Into how many partitions to look for `count` rows when `rows` of all meet the filter.

    The fewer meet it, the more partitions hold as many candidates as without one; and there must be enough of them.
    """
    enough = max(_PROBES, _CANDIDATES * count * partitions // max(all_rows, 1))
    return min(partitions, -(-enough * all_rows // max(rows, 1)))


def _search(
    store: Store, unit: np.ndarray, count: int, where: str | None, probes: int | None, columns: Sequence[str]
) -> pa.Table:
    """Some `count` nearest rows with their scores, in no certain order."""
    query: Any = store.table.search(unit, vector_column_name="vector").distance_type("cosine").limit(count)
    query = query.select([*dict.fromkeys([*columns, "id"]), "_distance"])
    query = query.bypass_vector_index() if probes is None else query.nprobes(probes).refine_factor(_REFINE)
    found = (query.where(where) if where else query).to_arrow()
    score = pc.subtract(1.0, pc.cast(found["_distance"], pa.float64()))
    return found.drop_columns("_distance").append_column(
        "score", pc.max_element_wise(pc.min_element_wise(score, 1.0), -1.0)
    )


def _is_settled(found: pa.Table, count: int) -> bool:
    """Whether the places up to `count` are certain: a worse score than the last of them was found."""
    scores = np.sort(found["score"].to_numpy())[::-1]
    return len(scores) <= count or scores[-1] < scores[count - 1]


def matrix(table: pa.Table) -> np.ndarray:
    """The column `vector`, of fixed-size lists: (rows, dim), of the column's own type, without a copy where it can be.

    A table without rows gives (0, dim).
    """
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
