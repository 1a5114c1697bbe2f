"""A million vectors of 512 dimensions: how fast and how completely an index finds the nearest ten, against exact numpy.

The vectors lie in clusters of very different sizes around a few hundred topics, as pictures do; queries are drawn from
the same clusters and are not among the rows. Every figure of a line is of the same queries in the same run; recall is
against an exact comparison with the vectors as they were before the index rounded them.

    python benchmarks/index_million.py [--rows 1000000] [--queries 100] [--keep FOLDER]

With --keep the index stays in a folder, and the next run asks the one that it finds there. Needs about 8 GB of memory
and 6 GB of disk; building takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from diptych.images.paths import path_id
from diptych.search.store import ModelIdentity, Store, embedding_column, schema
from diptych.search.vector_search import nearest_rows

DIM, BLOCK, K = 512, 50_000, 10
KEPT = 7  # the filter `width = 7` keeps one row in a hundred


class Clusters:
    """Unit vectors in clusters whose sizes follow a power law, the clusters around 300 topics."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        topics = _unit(rng.standard_normal((300, DIM), dtype=np.float32))
        count = max(50, rows // 200)
        noise = rng.standard_normal((count, DIM), dtype=np.float32) / np.sqrt(DIM)
        self.centres = _unit(topics[rng.integers(0, len(topics), count)] + 0.9 * noise)
        sizes = rng.pareto(1.5, count) + 0.2
        self.shares = sizes / sizes.sum()

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, dim) float32."""
        centres = self.centres[rng.choice(len(self.centres), count, p=self.shares)]
        return _unit(centres + 0.6 * rng.standard_normal((count, DIM), dtype=np.float32) / np.float32(np.sqrt(DIM)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def block(vectors: np.ndarray, start: int) -> pa.Table:
    """Rows for some vectors; the number of a row is its size."""
    numbers = range(start, start + len(vectors))
    paths = [f"/pictures/{number % 1000}/{number}.jpg" for number in numbers]
    columns = {
        "id": [path_id(path) for path in paths],
        "hash": [""] * len(paths),
        "path": paths,
        "folder": [path.rpartition("/")[0] for path in paths],
        "size": list(numbers),
        "mtime": [0] * len(paths),
        "width": [number % 100 for number in numbers],
    }
    form = schema(DIM)
    nulls = {field.name: pa.nulls(len(paths), field.type) for field in form if field.nullable}
    table = pa.table({**nulls, **columns, "vector": embedding_column(vectors)})
    return table.select(form.names).cast(form)


def exact(stored: np.ndarray, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The numbers of the nearest rows, by comparing with all (or with `rows`) in float32."""
    scores = (stored if rows is None else stored[rows]) @ query
    best = np.argpartition(-scores, K)[:K]
    return best if rows is None else rows[best]


def measure(name: str, answer: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, truth: list[set[int]]) -> None:
    seconds, recalls = [], []
    for query, right in zip(queries, truth, strict=True):
        began = time.perf_counter()
        found = answer(query)
        seconds.append(time.perf_counter() - began)
        recalls.append(len({int(each) for each in found} & right) / K)
    p50, p95 = statistics.median(seconds) * 1e3, float(np.percentile(seconds, 95)) * 1e3
    print(f"| {name} | {p50:.1f} | {p95:.1f} | {statistics.mean(recalls):.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="diptych-million-"))
    try:
        run(folder / "index", arguments.rows, arguments.queries)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)


def built(folder: Path, stored: np.ndarray) -> Store:
    store = Store.create(folder, ModelIdentity("drawn", None, DIM))
    with store.lock():
        began = time.perf_counter()
        for start in range(0, len(stored), BLOCK):
            store.add(block(stored[start : start + BLOCK], start))
        added = time.perf_counter() - began
        store.build_ann()
        print(f"added in {added:.0f} s, indexed in {time.perf_counter() - began - added:.0f} s", flush=True)
        store.compact()
    return store


def run(folder: Path, rows: int, count: int) -> None:
    clusters, rng = Clusters(rows), np.random.default_rng(1)
    stored = np.empty((rows, DIM), np.float32)
    for start in range(0, rows, BLOCK):
        stored[start : start + BLOCK] = clusters.draw(min(BLOCK, rows - start), rng)
    print(f"{rows:,} x {DIM}; {os.cpu_count()} cores", flush=True)
    store = Store.open(folder) if Store.is_index(folder) else built(folder, stored)
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    print(f"{disk:,.0f} MB on disk", flush=True)
    queries = clusters.draw(count, np.random.default_rng(2))
    kept = np.arange(KEPT, rows, 100)
    truth = [set(exact(stored, query).tolist()) for query in queries]
    filtered = [set(exact(stored, query, kept).tolist()) for query in queries]
    where = f"width = {KEPT}"

    def ask(**settings: object) -> Callable[[np.ndarray], np.ndarray]:
        return lambda query: nearest_rows(store, query, K, columns=["size"], **settings)["size"].to_numpy()

    for query in queries[: count // 2]:  # warm
        ask()(query)
        ask(where=where)(query)
    print("\n| | p50 ms | p95 ms | recall@10 |\n|---|---:|---:|---:|")
    measure("diptych", ask(), queries, truth)
    measure("exact, numpy float32 in memory", lambda query: exact(stored, query), queries, truth)
    measure("diptych, filter keeps 1%", ask(where=where), queries, filtered)
    measure("exact, numpy, the 1% taken out", lambda query: exact(stored, query, kept), queries, filtered)
    few = queries[:5]
    measure("diptych, exact=True", ask(exact=True), few, truth[:5])


if __name__ == "__main__":
    main()
