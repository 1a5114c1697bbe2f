"""Nearest-neighbour search: exact in small tables, by the approximate (ANN) index in large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diptych.errors import ConfigError, ModelError
from diptych.search.store import Store

# Chosen with benchmarks/index_million.py, so that recall at 10 is above 99%.
_PROBES = 50  # partitions searched without a filter: 5% of those of a million rows
_CANDIDATES = 8  # rows compared by their quantized embeddings, per result
_REFINE = 4  # candidates per result that are compared again by their full embeddings


def nearest_rows(
    store: Store,
    embedding: NDArray[np.floating],
    k: int,
    *,
    where: str | None = None,
    offset: int = 0,
    columns: Sequence[str] | None = None,
    exact: bool = False,
) -> pa.Table:
    """The `k` rows nearest to `embedding` after the first `offset`, best first, ties by id.

    `embedding` is (dim,) and need not have unit length. The column `score` is the cosine, in [-1, 1]; the others are
    `columns`, or all but `vector`. `where` is an SQL condition, applied before the search, so that `k` rows are
    returned whenever that many meet it. Without an ANN index, or with `exact`, all rows are compared. With one, the
    fewer rows a filter keeps, the more partitions are searched, so that filters do not cost recall.

    Raises:
        ModelError: the dimension differs from that of the index.
        ConfigError: `k` or `offset` is out of range, or the embedding is zero or not finite.
    """
    unit = _unit(store, embedding)
    if k < 1 or offset < 0:
        raise ConfigError(f"k is {k} and offset {offset}; k must be at least 1, offset at least 0")
    names = list(columns) if columns is not None else [name for name in store.table.schema.names if name != "vector"]
    rows = store.table.count_rows(where)
    partitions = 0 if exact else store.partitions
    count = offset + k
    probes = _probes(partitions, count, rows, len(store)) if partitions else None
    while True:
        table = _search(store, unit, min(count + 1, max(rows, 1)), where, probes, names)
        if table.num_rows <= count or table.num_rows >= rows or _is_settled(table, offset + k):
            break
        count *= 2  # the last ranks are tied: fetch the whole tie, so that pages neither repeat nor miss a row
    order = pc.sort_indices(table, sort_keys=[("score", "descending"), ("id", "ascending")])
    return table.take(order).slice(offset, k).select([*names, "score"])


def _unit(store: Store, embedding: NDArray[np.floating]) -> NDArray[np.float32]:
    embedding = np.asarray(embedding, np.float32)
    if embedding.shape != (store.identity.dim,):
        raise ModelError(
            f"the query's embedding has the shape {embedding.shape}; '{store.folder}' was made by "
            f"'{store.identity.name}', whose embeddings have {store.identity.dim} dimensions: use that model"
        )
    norm = float(np.linalg.norm(embedding))
    if not np.isfinite(norm) or norm == 0:
        raise ConfigError("the query's embedding is zero or not finite; change the query")
    return embedding / norm


def _probes(partitions: int, count: int, rows: int, all_rows: int) -> int:
    """How many partitions to search for `count` rows when `rows` of `all_rows` meet the filter.

    The fewer meet it, the more partitions are needed to hold as many candidates as without a filter.
    """
    enough = max(_PROBES, _CANDIDATES * count * partitions // max(all_rows, 1))
    return min(partitions, -(-enough * all_rows // max(rows, 1)))


def _search(
    store: Store,
    unit: NDArray[np.float32],
    count: int,
    where: str | None,
    probes: int | None,
    columns: Sequence[str],
) -> pa.Table:
    """The nearest `count` rows with their scores, in no particular order."""
    query: Any = store.table.search(unit, vector_column_name="vector").distance_type("cosine").limit(count)
    query = query.select([*dict.fromkeys([*columns, "id"]), "_distance"])
    query = query.bypass_vector_index() if probes is None else query.nprobes(probes).refine_factor(_REFINE)
    table = (query.where(where) if where else query).to_arrow()
    score = pc.subtract(1.0, pc.cast(table["_distance"], pa.float64()))
    return table.drop_columns("_distance").append_column(
        "score", pc.max_element_wise(pc.min_element_wise(score, 1.0), -1.0)
    )


def _is_settled(table: pa.Table, count: int) -> bool:
    """Whether the first `count` ranks are certain: a score worse than the last of them was found."""
    scores = np.sort(table["score"].to_numpy())[::-1]
    return len(scores) <= count or scores[-1] < scores[count - 1]


def embedding_matrix(table: pa.Table) -> NDArray[np.floating]:
    """The column `vector` as a matrix, (rows, dim), in the column's own type and without a copy where possible."""
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
