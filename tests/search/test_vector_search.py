"""Nearest-neighbour search against exact comparison in NumPy: filters, ties, pages, with and without an ANN index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from diptych.errors import ConfigError, ModelError
from diptych.images.paths import path_id
from diptych.search.index import ModelIdentity, Store
from diptych.search.rows import to_table
from diptych.search.vector_search import nearest_rows

pytest.importorskip("lancedb")
DIM = 24


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _vectors(count: int, seed: int) -> np.ndarray:
    """Unit vectors in forty clusters, as the table keeps them: float16."""
    centres = _unit(np.random.default_rng(0).standard_normal((40, DIM)))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, DIM)) / np.sqrt(DIM)
    return _unit(vectors).astype(np.float16)


def _table(vectors: np.ndarray, start: int = 0) -> pa.Table:
    """Rows numbered by their size; `width` is the number modulo 100."""
    rows = []
    for number, vector in enumerate(vectors, start):
        path = f"/pictures/{number}.png"
        rows.append(
            {
                **{"id": path_id(path), "hash": f"{number:032x}", "path": path, "folder": "/pictures"},
                **{"size": number, "mtime": 0, "width": number % 100, "vector": vector},
            }
        )
    return to_table(rows, DIM)


def _store(folder: Path, vectors: np.ndarray) -> Store:
    store = Store.create(folder / "index", ModelIdentity("drawn", "0", DIM))
    with store.lock():
        if len(vectors):
            store.add(_table(vectors))
        store.finish_additions()
    return store


def _exact(vectors: np.ndarray, query: np.ndarray, keep: np.ndarray | None = None) -> list[int]:
    """The numbers of the rows, nearest first, ties by id."""
    numbers = np.arange(len(vectors)) if keep is None else keep
    scores = _unit(vectors[numbers].astype(np.float64)) @ query
    ids = np.array([path_id(f"/pictures/{number}.png") for number in numbers])
    return numbers[np.lexsort((ids, -np.round(scores, 6)))].tolist()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, np.ndarray]:
    vectors = _vectors(500, 1)
    return _store(tmp_path_factory.mktemp("small"), vectors), vectors


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, np.ndarray]:
    """4,000 rows with an ANN index, built as tables above `ANN_ROWS` build it."""
    vectors = _vectors(4_000, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.search.store.ANN_ROWS", 4_000)
        return _store(tmp_path_factory.mktemp("large"), vectors), vectors


def test_a_small_table_is_searched_exactly(small: tuple[Store, np.ndarray]) -> None:
    store, vectors = small
    assert store.partitions == 0
    for query in _vectors(5, 9).astype(np.float64):
        found = nearest_rows(store, 7 * query, 20)  # of any length
        assert found["size"].to_pylist() == _exact(vectors, query)[:20]
        expected = _unit(vectors[found["size"].to_numpy()].astype(np.float64)) @ _unit(query)
        assert np.allclose(found["score"].to_numpy(), expected, atol=1e-4)
        assert "vector" not in found.column_names


def test_a_row_is_nearest_to_its_own_embedding_with_score_one(small: tuple[Store, np.ndarray]) -> None:
    store, vectors = small
    (found,) = nearest_rows(store, vectors[3].astype(np.float32), 1, columns=["size", "vector"]).to_pylist()
    assert (found["size"], found["score"]) == (3, pytest.approx(1, abs=1e-3))
    assert found["score"] <= 1
    assert np.array_equal(np.asarray(found["vector"], np.float16), vectors[3])


def test_pages_neither_repeat_nor_miss_a_row_even_among_ties(tmp_path: Path) -> None:
    vectors = np.repeat(_vectors(4, 1), 25, axis=0)  # four different pictures, 25 copies of each
    store = _store(tmp_path, vectors)
    query = _vectors(1, 9)[0].astype(np.float64)
    pages = [nearest_rows(store, query, 7, offset=start)["size"].to_pylist() for start in range(0, 105, 7)]
    assert [len(page) for page in pages] == [7] * 14 + [2]
    assert [number for page in pages for number in page] == _exact(vectors, query)


def test_a_filter_is_applied_before_the_search(small: tuple[Store, np.ndarray]) -> None:
    store, vectors = small
    query = _vectors(1, 9)[0].astype(np.float64)
    found = nearest_rows(store, query, 5, where="width < 2")["size"].to_pylist()
    assert found == _exact(vectors, query, np.array([n for n in range(500) if n % 100 < 2]))[:5]
    assert nearest_rows(store, query, 5, where="width > 1000").num_rows == 0


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    assert nearest_rows(_store(tmp_path, np.empty((0, DIM), np.float16)), np.ones(DIM), 5).num_rows == 0


@pytest.mark.parametrize(("vector", "error"), [(np.ones(5), ModelError), (np.zeros(DIM), ConfigError)])
def test_a_query_embedding_that_does_not_fit_the_index_is_refused(
    small: tuple[Store, np.ndarray], vector: np.ndarray, error: type[Exception]
) -> None:
    with pytest.raises(error):
        nearest_rows(small[0], vector, 5)


@pytest.mark.parametrize("range_", [{"k": 0}, {"k": 5, "offset": -1}])
def test_a_page_before_the_first_is_refused(small: tuple[Store, np.ndarray], range_: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        nearest_rows(small[0], np.ones(DIM), **range_)


def test_the_ann_index_of_a_large_table_finds_what_exact_search_finds(large: tuple[Store, np.ndarray]) -> None:
    store, vectors = large
    assert store.partitions == 63
    hits = [
        len({*nearest_rows(store, query, 10)["size"].to_pylist()} & {*_exact(vectors, query)[:10]})
        for query in _vectors(50, 9).astype(np.float64)
    ]
    assert sum(hits) >= 0.99 * 500
    query = _vectors(1, 9)[0].astype(np.float64)
    assert nearest_rows(store, query, 10, exact=True)["size"].to_pylist() == _exact(vectors, query)[:10]


def test_a_filter_that_keeps_one_row_in_a_hundred_costs_no_recall(large: tuple[Store, np.ndarray]) -> None:
    store, vectors = large
    keep = np.arange(7, 4_000, 100)
    for query in _vectors(20, 9).astype(np.float64):
        found = nearest_rows(store, query, 10, where="width = 7")["size"].to_pylist()
        assert set(found) == {*_exact(vectors, query, keep)[:10]}


def test_an_ann_index_returns_k_rows_too(large: tuple[Store, np.ndarray]) -> None:
    store, vectors = large
    query = _vectors(1, 9)[0].astype(np.float64)
    found = nearest_rows(store, query, 1_500)["size"].to_pylist()
    assert len(found) == len(set(found)) == 1_500
    assert len({*found} & {*_exact(vectors, query)[:1_500]}) >= 1_450


def test_rows_added_after_the_ann_index_are_found_at_once_and_merged_later(tmp_path: Path) -> None:
    vectors = _vectors(2_000, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.search.store.ANN_ROWS", 2_000)
        patch.setattr("diptych.search.store._UNINDEXED_ROWS", 30)
        store = _store(tmp_path, vectors)
        reader, partitions = Store.open(store.folder), store.partitions
        far = _unit(-vectors[:400].astype(np.float64).mean(axis=0) + _vectors(200, 5))
        with store.lock():
            store.add(_table(far.astype(np.float16), start=2_000))
            assert nearest_rows(reader, far[0], 1)["size"].to_pylist() == [2_000]
            store.finish_additions()
        (built,) = store.table.list_indices()
        assert (built.num_indexed_rows, built.num_unindexed_rows, store.partitions) == (2_200, 0, partitions)
        assert nearest_rows(reader, far[0], 1)["size"].to_pylist() == [2_000]


def test_a_table_that_grew_fourfold_gets_new_partitions(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diptych.search.store.ANN_ROWS", 500)
        store = _store(tmp_path, _vectors(500, 1))
        reader = Store.open(store.folder)
        assert reader.partitions == 22
        with store.lock():
            store.add(_table(_vectors(1_500, 2), start=500))
            store.finish_additions()
        assert reader.partitions == 44


def test_small_additions_are_compacted(tmp_path: Path) -> None:
    store = _store(tmp_path, np.empty((0, DIM), np.float16))
    vectors = _vectors(100, 1)
    with store.lock():
        for at in range(100):
            store.add(_table(vectors[at : at + 1], start=at))
            store.compact_if_scattered()
    assert store.table.stats()["fragment_stats"]["num_fragments"] <= 33
    assert sorted(row["size"] for row in store.table.search().limit(200).to_list()) == list(range(100))


def test_replaced_rows_are_not_duplicated(small: tuple[Store, np.ndarray], tmp_path: Path) -> None:
    store = _store(tmp_path, _vectors(10, 1))
    with store.lock():
        store.replace(_table(_vectors(4, 8), start=8))  # two that are there, two that are not
        store.delete([path_id("/pictures/0.png")])
    rows = {row["size"]: row["vector"] for row in store.table.search().limit(100).to_list()}
    assert (len(store), sorted(rows)) == (11, list(range(1, 12)))
    assert np.array_equal(np.asarray(rows[8], np.float16), _vectors(4, 8)[0])
