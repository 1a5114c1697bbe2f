"""Asking: a query's nearest pictures, cut off where they no longer match, copies folded, page by page."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa

from diptych.errors import ConfigError, DataError
from diptych.images.paths import path_id, to_text
from diptych.search.copies import copy_groups
from diptych.search.cutoff import KEEP, Cutoff, cutoff_of, figures
from diptych.search.filters import Filters, both
from diptych.search.nearest import matrix, nearest
from diptych.search.query import Query, query_vector
from diptych.search.rerank import rerank_hits, text_to_match
from diptych.search.results import Hit, Results
from diptych.search.store import Store, in_list
from diptych.search.vocabulary import vocabulary_vectors

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.models.onnx.text_graph import TextEncoder

Sort = Literal["score", "newest", "oldest"]

MOST = 5_000  # nearest pictures that one query looks at
_FIRST = 200
_ID = re.compile("[0-9a-f]{32}")
_TOLD = ("width", "height", "size", "taken", "camera", "latitude", "longitude", "caption")
_COLUMNS = ("id", "path", "hash", "phash", "mtime", *_TOLD, "vector")


class Searchable(Protocol):
    """What a search needs of an index: its table, the model that made its embeddings, and a matcher to re-rank with."""

    store: Store
    model_lock: AbstractContextManager[object]
    """Held while the model or the matcher runs, and not while the table is scanned."""

    @property
    def model(self) -> DualEncoder: ...
    @property
    def texts(self) -> TextEncoder: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def matcher(self) -> Matcher: ...


def search(
    index: Searchable,
    query: str | Query,
    *,
    k: int = 20,
    page: int = 1,
    filters: Filters | None = None,
    where: str | None = None,
    sort: Sort = "score",
    keep: float | None = KEEP,
    fold: bool = True,
    rerank: int = 0,
    matcher: Matcher | None = None,
) -> Results:
    """The pictures of an index that match a query, `k` a page.

    A text that matches nothing finds nothing: `keep` is the share in [0, 1] of the queries with a match that still
    find one, so less is stricter; None gives the nearest pictures whether they match or not. A query by pictures or
    rows has no such cutoff: what is nearest to a picture is what was asked for. The rows of the query themselves are
    not found. With `fold`, copies of a picture are one hit. Sorting by date sorts what matches. `where` is an SQL
    condition on the columns of the index, for what `filters` lacks: never build it of others' input. The first `rerank`
    hits of a query by one text are put in the order of `matcher` (the index's own if None), which looks at the pictures
    again.

    Raises:
        ConfigError: `k`, `page`, `sort` or `keep` is out of range, or `where` is not SQL that the index understands.
        DataError: a row of the query is not in the index.
        ImageError: a picture of the query cannot be decoded.
        ModelError: the model that made the index cannot be loaded, has changed, or has no matcher to re-rank by.
    """
    if k < 1 or page < 1 or k * page > MOST:
        raise ConfigError(f"k is {k} and page {page}; both must be at least 1, and k * page at most {MOST:,}")
    if rerank < 0 or rerank > MOST or (rerank and sort != "score"):
        raise ConfigError(f"rerank is {rerank} and sort '{sort}'; it is 0 to {MOST:,}, and orders by score alone")
    if sort not in get_args(Sort):
        raise ConfigError(f"sort is '{sort}'; valid: {', '.join(get_args(Sort))}")
    query = Query.of(query) if isinstance(query, str) else query
    asked = _with_row_ids(index.store, query)
    condition = both(filters.condition() if filters else None, where, _not_itself(index.store, asked.rows))
    with index.model_lock:
        vector = _vector(index, asked)
        gate = _gate(index, asked, vector, keep)
    searched = _count(index.store, condition, where)
    wanted = max(k * page, rerank) if sort == "score" else MOST
    hits, more, best = _hits(index.store, vector, condition, gate, wanted, fold)
    if rerank:
        matcher = matcher or index.matcher
        hits = rerank_hits(hits, text_to_match(query), matcher, rerank, index.readable, index.model_lock)
    if sort != "score":
        hits.sort(key=lambda hit: hit.date, reverse=sort == "newest")
    shown = tuple(hits[k * (page - 1) : k * page])
    return Results(str(query), shown, len(hits), more, searched, gate.words, page, min(k * (page - 1), len(hits)), best)


@dataclass(frozen=True)
class _Gate:
    """Which pictures are hits: all, or those with enough evidence; `words` say so."""

    words: str
    evidence: Callable[[np.ndarray], np.ndarray] | None = None  # (pictures, dim) to (pictures,)
    least: float = -np.inf


def _gate(index: Searchable, query: Query, vector: np.ndarray, keep: float | None) -> _Gate:
    if keep is None:
        return _Gate("no cutoff: the nearest pictures, whether they match or not")
    if not query.asks_by("text"):
        return _Gate("no cutoff: the nearest to a picture, best first")
    cutoff = cutoff_of(index.model_name)
    background = vocabulary_vectors(lambda: index.texts, index.model_hash)
    if query.wanted != query:  # what is unwanted turns the order; what is wanted must be there all the same
        vector = _vector(index, query.wanted)
    return _Gate(
        _in_words(cutoff, keep, index.store.identity.name),
        lambda pictures: cutoff.evidence(figures(vector, pictures, background)),
        cutoff.least_evidence(keep),
    )


def _in_words(cutoff: Cutoff, keep: float, model: str) -> str:
    words = f"cutoff: {keep:.0%} of the queries that do match something find it"
    if cutoff.calibrated:
        return words
    return f"{words}, as measured with another model; '{Path(model).name}' is not calibrated (see docs/search.md)"


def _hits(
    store: Store, vector: np.ndarray, condition: str | None, gate: _Gate, wanted: int, fold: bool
) -> tuple[list[Hit], bool, Hit | None]:
    """At least `wanted` hits if there are so many, whether there may be more, and the nearest picture."""
    count = max(_FIRST, 2 * wanted)
    while True:
        count = min(count, 2 * MOST)
        table = nearest(store, vector, count, where=condition, columns=_COLUMNS)
        vectors = matrix(table).astype(np.float32)
        evidence = gate.evidence(vectors) if gate.evidence else None
        kept = np.arange(table.num_rows) if evidence is None else np.flatnonzero(evidence >= gate.least)
        # Evidence falls with the rank: where the second half of so many has no hit, none is to come.
        ended = table.num_rows < count or not (kept >= count // 2).any()
        hits = _as_hits(table.take(kept), vectors[kept], None if evidence is None else evidence[kept], fold)
        if ended or len(hits) >= wanted or count >= 2 * MOST:
            first = _as_hits(table.slice(0, 1), vectors[:1], None if evidence is None else evidence[:1], False)
            return hits, not ended, first[0] if first else None
        count *= 4


def _as_hits(table: pa.Table, vectors: np.ndarray, evidence: np.ndarray | None, fold: bool) -> list[Hit]:
    rows = table.select([name for name in table.column_names if name != "vector"]).to_pylist()
    groups = copy_groups([r["hash"] for r in rows], [r["phash"] for r in rows], vectors) if fold else []
    copies = {group[0]: tuple(rows[at]["path"] for at in group[1:]) for group in groups}
    folded = {at for group in groups for at in group[1:]}
    return [
        _hit(row, None if evidence is None else float(evidence[at]), copies.get(at, ()))
        for at, row in enumerate(rows)
        if at not in folded
    ]


def _hit(row: dict[str, Any], evidence: float | None, copies: tuple[str, ...]) -> Hit:
    told = {name: row[name] for name in _TOLD}
    told["size"] = None if row["size"] < 0 else row["size"]  # of vectors made elsewhere only the path is known
    changed = datetime.datetime.fromtimestamp(row["mtime"] / 1e9) if row["mtime"] > 0 else None
    return Hit(row["id"], row["path"], row["score"], evidence, changed=changed, copies=copies, **told)


def _vector(index: Searchable, query: Query) -> np.ndarray:
    def row_vectors(ids: Sequence[str]) -> np.ndarray:
        table = index.store.rows(ids, ["id", "vector"])
        found = dict(zip(table["id"].to_pylist(), matrix(table).astype(np.float32), strict=True))
        return np.stack([found[each] for each in ids])

    return query_vector(query, lambda: index.texts, lambda: index.model, row_vectors)


def _with_row_ids(store: Store, query: Query) -> Query:
    """The query with the rows that it names by path named by their ids."""
    parts = []
    for part in query.parts:
        if part.kind == "row":
            name = str(part.value)
            by_path = _id_of_path(name)
            found = store.rows([name, by_path] if _ID.fullmatch(name) else [by_path], ["id"])["id"].to_pylist()
            if not found:
                raise DataError(
                    f"'{name}' is neither the path nor the id of a picture in '{store.folder}'; "
                    "index it first, or ask by the picture itself (--image)"
                )
            part = replace(part, value=found[0])
        parts.append(part)
    return Query(tuple(parts))


def _id_of_path(name: str) -> str:
    try:
        return path_id(to_text(Path(name).expanduser().resolve()))
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
        raise DataError(f"'{name}' is not a path ({error}); name a picture of the index by its path or id") from error


def _not_itself(store: Store, ids: Sequence[str]) -> str | None:
    """The condition that leaves out the rows of the query and files with the same content."""
    if not ids:
        return None
    contents = [content for content in store.rows(ids, ["hash"])["hash"].to_pylist() if content]
    return both(f"NOT ({in_list('id', ids)})", f"NOT ({in_list('hash', contents)})" if contents else None)


def _count(store: Store, condition: str | None, where: str | None) -> int:
    try:
        return store.table.count_rows(condition)
    except (ValueError, RuntimeError, OSError) as error:
        if where is None:  # the filters' own conditions are understood
            raise DataError("the index is damaged; remove its folder and index the pictures again") from error
        raise ConfigError(f"the index does not understand the condition {condition}: {error}") from error
