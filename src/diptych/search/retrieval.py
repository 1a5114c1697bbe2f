"""Retrieval: the images nearest to a query, with relevance cutoff, folded copies, date order, re-ranking and pages."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.errors import ConfigError, DataError, NextStep
from diptych.images.paths import from_text, path_id, texts_of, to_text
from diptych.images.roots import Roots, expand_home
from diptych.search.copies import copy_groups, only_first, pixel_comparison
from diptych.search.cutoff import Cutoff, cutoff_features, cutoff_of
from diptych.search.filters import Filters, both
from diptych.search.layout import damaged, first_line
from diptych.search.query import Query, QueryLike, as_query, query_embedding
from diptych.search.rerank import rerank_hits, text_to_match
from diptych.search.results import Hit, Results
from diptych.search.store import Store, in_list, quoted
from diptych.search.vector_search import embedding_matrix, nearest_rows
from diptych.search.vocabulary import vocabulary_embeddings

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.models.onnx.text_graph import TextEncoder

Sort = Literal["score", "newest", "oldest"]

MAX_RANK = 5_000
"""How many of the nearest images one query looks at."""
_FIRST = 200
_ID = re.compile("[0-9a-f]{32}")
_METADATA = ("width", "height", "size", "taken", "camera", "latitude", "longitude", "caption")
_COLUMNS = ("id", "path", "hash", "phash", "mtime", *_METADATA, "vector")


class Searchable(Protocol):
    """What a search needs of an index: its table, the model that made its embeddings, and where images may be read."""

    store: Store
    readable: Roots
    model_lock: AbstractContextManager[object]
    """Held while the model or the matcher runs, but not while the table is scanned."""

    @property
    def model(self) -> DualEncoder:
        """The model that made the embeddings."""
        ...

    @property
    def model_name(self) -> str | None:
        """The name of that model; None if it is only in memory."""
        ...

    @property
    def model_fingerprint(self) -> str:
        """`DualEncoder.fingerprint()` of that model."""
        ...

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of text queries, which may be loaded without the model."""
        ...

    @property
    def matcher(self) -> Matcher:
        """The matcher to re-rank with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of `Index.search`, where they are explained."""

    k: int
    page: int
    filters: Filters | None
    where: str | None
    sort: Sort
    keep: float | None
    fold: bool
    rerank: int
    matcher: Matcher | None

    def __post_init__(self) -> None:
        if self.k < 1 or self.page < 1 or self.k * self.page > MAX_RANK:
            raise ConfigError(
                f"k is {self.k} and page {self.page}; both must be at least 1, and k * page at most {MAX_RANK:,}"
            )
        if self.rerank < 0 or self.rerank > MAX_RANK or (self.rerank and self.sort != "score"):
            raise ConfigError(
                f"rerank is {self.rerank} and sort '{self.sort}'; rerank must be 0 to {MAX_RANK:,} and needs sort "
                "'score'"
            )
        if self.sort not in get_args(Sort):
            raise ConfigError(f"sort is '{self.sort}'; valid: {', '.join(get_args(Sort))}")


def search(index: Searchable, query: QueryLike, options: SearchOptions) -> Results:
    """The images of an index that match a query; see `Index.search`, which calls this.

    Raises:
        ConfigError: `where` is not a condition on the index's columns.
        DataError: a row of the query is not in the index.
        ImageError: an image of the query cannot be decoded.
        ModelError: the model that made the index cannot be loaded, has changed, or has no matcher to re-rank with.
    """
    query = as_query(query)
    resolved = _with_row_ids(index.store, query)
    condition = both(
        options.filters.condition() if options.filters else None, options.where, _not_itself(index.store, resolved.rows)
    )
    with index.model_lock:
        embedding = _embedding(index, resolved)
        unknown = index.text_encoder.unknown_texts(resolved.texts) if resolved.texts else []
        gate = _gate(index, resolved, embedding, options.keep)
    searched = _count(index.store, condition, options.where)
    needed = max(options.k * options.page, options.rerank) if options.sort == "score" else MAX_RANK
    readable = index.readable if options.fold else None
    hits, more, nearest = _hits(index.store, embedding, condition, gate, needed, readable)
    if options.rerank:
        matcher = options.matcher or index.matcher
        hits = rerank_hits(hits, text_to_match(query), matcher, options.rerank, index.readable, index.model_lock)
    if options.sort != "score":
        hits.sort(key=lambda hit: hit.date, reverse=options.sort == "newest")
    start = options.k * (options.page - 1)
    return Results(
        query=str(query),
        hits=tuple(hits[start : start + options.k]),
        total=len(hits),
        more=more,
        searched=searched,
        cutoff=gate.description,
        page=options.page,
        before=min(start, len(hits)),
        nearest=nearest,
        unknown=tuple(unknown),
        readable=index.readable,
    )


@dataclass(frozen=True)
class _Gate:
    """Which images are hits: all, or those with at least `least` evidence; `description` says so in words."""

    description: str
    evidence: Callable[[NDArray[np.float32]], NDArray[np.floating]] | None = None  # (images, dim) to (images,)
    least: float = -np.inf


def _gate(index: Searchable, query: Query, embedding: NDArray[np.float32], keep: float | None) -> _Gate:
    if keep is None:
        return _Gate("no relevance cutoff: the nearest images, whether or not they match")
    if not query.is_text:
        return _Gate("no relevance cutoff: queries by image show the nearest images, best first")
    cutoff = cutoff_of(index.model_name)
    background = vocabulary_embeddings(lambda: index.text_encoder, index.model_fingerprint)
    if query.wanted != query:  # unwanted parts change the order; the cutoff judges what is wanted alone
        embedding = _embedding(index, query.wanted)
    return _Gate(
        _describe(cutoff, keep, index.store.identity.name),
        lambda images: cutoff.evidence(cutoff_features(embedding, images, background)),
        cutoff.least_evidence(keep),
    )


def _describe(cutoff: Cutoff, keep: float, model: str) -> str:
    text = f"relevance cutoff {keep:g}"
    if cutoff.calibrated:
        return text
    return f"{text}, measured with another model; '{Path(model).name}' is not calibrated (see docs/search.md)"


def _hits(
    store: Store,
    embedding: NDArray[np.float32],
    condition: str | None,
    gate: _Gate,
    needed: int,
    readable: Roots | None,
) -> tuple[list[Hit], bool, Hit | None]:
    """At least `needed` hits if there are so many, whether there may be more, and the nearest image.

    Copies are folded unless `readable`, the folders in which they may be read and compared, is None.
    """
    count = max(_FIRST, 2 * needed)
    while True:
        count = min(count, 2 * MAX_RANK)
        table = nearest_rows(store, embedding, count, where=condition, columns=_COLUMNS)
        embeddings = embedding_matrix(table).astype(np.float32)  # (rows, dim)
        evidence = gate.evidence(embeddings) if gate.evidence else None
        passed = np.arange(table.num_rows) if evidence is None else np.flatnonzero(evidence >= gate.least)
        # Evidence falls with the rank: where the second half of the rows has no hit, no later row is one.
        ended = table.num_rows < count or not (passed >= count // 2).any()
        hits = _as_hits(
            table.take(passed), embeddings[passed], None if evidence is None else evidence[passed], readable
        )
        if ended or len(hits) >= needed or count >= 2 * MAX_RANK:
            first = _as_hits(table.slice(0, 1), embeddings[:1], None if evidence is None else evidence[:1], None)
            return hits, not ended, first[0] if first else None
        count *= 4


def _as_hits(
    table: pa.Table,
    embeddings: NDArray[np.float32],
    evidence: NDArray[np.floating] | None,
    readable: Roots | None,
    needed: int = MAX_RANK,
) -> list[Hit]:
    """The rows as hits, with copies folded among the first `needed` hits unless `readable` is None."""
    rows = table.select([name for name in table.column_names if name != "vector"]).to_pylist()
    groups: list[list[int]] = []
    if readable is not None:
        contents = [row["hash"] for row in rows]
        is_same = only_first(pixel_comparison([row["path"] for row in rows], contents, readable), needed, contents)
        groups = copy_groups(contents, [row["phash"] for row in rows], embeddings, is_same)
    copies = {group[0]: tuple(rows[place]["path"] for place in group[1:]) for group in groups}
    folded = {place for group in groups for place in group[1:]}
    return [
        _hit(row, None if evidence is None else float(evidence[place]), copies.get(place, ()))
        for place, row in enumerate(rows)
        if place not in folded
    ]


def _hit(row: dict[str, Any], evidence: float | None, copies: tuple[str, ...]) -> Hit:
    metadata = {name: row[name] for name in _METADATA}
    metadata["size"] = None if row["size"] < 0 else row["size"]  # unknown where only an embedding was added
    changed = datetime.datetime.fromtimestamp(row["mtime"] / 1e9) if row["mtime"] > 0 else None
    return Hit(row["id"], row["path"], row["score"], evidence, changed=changed, copies=copies, **metadata)


def _embedding(index: Searchable, query: Query) -> NDArray[np.float32]:
    def row_embeddings(ids: Sequence[str]) -> NDArray[np.float32]:
        table = index.store.rows(ids, ["id", "vector"])
        by_id = dict(zip(table["id"].to_pylist(), embedding_matrix(table).astype(np.float32), strict=True))
        return np.stack([by_id[id] for id in ids])

    return query_embedding(query, lambda: index.text_encoder, lambda: index.model, row_embeddings)


def _with_row_ids(store: Store, query: Query) -> Query:
    """The query with each row that is named by its path named by its id."""
    parts = []
    for part in query.parts:
        if part.kind == "row":
            part = replace(part, value=_row_id(store, str(part.value)))
        parts.append(part)
    return Query(tuple(parts))


def _row_id(store: Store, name: str) -> str:
    """The id of the row that is named by its id or by a path, with links or without."""
    try:
        forms = [path_id(text) for text in texts_of(name)]
    except (OSError, ValueError) as error:  # a loop of links, a NUL
        raise DataError(f"'{name}' is not a path ({error}); name an image in the index by its path or id") from error
    candidates = [name, *forms] if _ID.fullmatch(name) else forms
    known = set(store.rows(candidates, ["id"])["id"].to_pylist())
    if (row := next((candidate for candidate in candidates if candidate in known), None)) is not None:
        return row
    if (row := _same_file(store, name)) is not None:
        return row
    raise DataError(
        f"no image in '{store.folder}' has the path or id '{name}'; give a path as search results show it, or index it",
        steps=[NextStep("or search by a file that is not indexed", "image")],
    )


def _same_file(store: Store, name: str) -> str | None:
    """The id of a row whose path leads to the same file through other links; its own name must be the same."""
    file = Path(expand_home(name)).resolve()
    if not file.is_file():
        return None
    query = store.table.search().where(f"ends_with(path, {quoted('/' + to_text(file.name))})").select(["id", "path"])
    for row in query.to_arrow().to_pylist():
        with suppress(OSError, ValueError):
            if file.samefile(from_text(row["path"])):
                return str(row["id"])
    return None


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
        if where is None:  # the filters' own conditions are valid
            raise damaged(store.folder, first_line(error)) from error
        raise ConfigError(f"`where` makes a condition that the index cannot evaluate: {condition} ({error})") from error
