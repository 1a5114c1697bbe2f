"""Updating an index: new, changed, moved and deleted images, killed runs, and several writers."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych
from diptych.data.pairs import Pairs, Row
from diptych.errors import ConfigError, DataError, ModelError
from diptych.images.paths import path_id, to_text
from diptych.search.index import Index, IndexBusy, Store, find_index
from diptych.search.vector_search import nearest_rows
from tests.broken import BROKEN, break_files, encoded
from tests.conftest import TINY
from tests.search.test_index_files import stored_vectors, write_shard

pytest.importorskip("lancedb")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model on disk."""
    names = ("image_tower", "text_tower", "pretrained", "text_arguments", "image_size", "crop", "dim", "device")
    model = diptych.build(**{name: TINY[name] for name in names}, projection="linear", captions=["a red star"])
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> diptych.DualEncoder:
    return diptych.load(model_folder, "cpu")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Six pictures in two folders."""
    for at in range(6):
        path = tmp_path / "library" / ("sub" if at % 2 else ".") / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG", at))
    return tmp_path / "library"


@pytest.fixture
def index(library: Path, model: diptych.DualEncoder) -> Index:
    made = Index(library, model)
    assert made.add(library).new == 6
    return made


def _rows(index: Index) -> dict[str, dict[str, Any]]:
    """The rows by their path below the library."""
    rows = index.store.table.search().limit(10_000).to_list()
    root = to_text(index.folder.parent)
    assert len({row["id"] for row in rows}) == len(rows), "a row stands twice"
    return {row["path"].removeprefix(f"{root}/"): row for row in rows}


# what a run does


def test_a_row_has_the_metadata_of_its_file_and_its_embedding(
    index: Index, library: Path, model: diptych.DualEncoder
) -> None:
    row = _rows(index)["sub/1.png"]
    path = library / "sub" / "1.png"
    assert row["id"] == path_id(to_text(path))
    assert (row["size"], row["mtime"]) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert (row["folder"], row["width"], row["height"]) == (to_text(library / "sub"), 48, 40)
    vector = model.encode_images([diptych.images.decode.decode(path)])[0]
    assert np.asarray(row["vector"], np.float32) @ vector == pytest.approx(1, abs=1e-3)


def test_a_second_run_reads_nothing_and_loads_no_model(index: Index, library: Path, tmp_path: Path) -> None:
    for path in library.rglob("*.png"):
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)  # if it were read, it would be skipped
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = Index(library)
    added = again.add(library)
    assert (added.unchanged, added.embedded, len(added.skipped)) == (6, 0, 0)
    assert again._encoder.loaded is None


def test_a_new_image_is_added(index: Index, library: Path) -> None:
    (library / "new.png").write_bytes(encoded("PNG", 99))
    added = index.add(library)
    assert (added.new, added.unchanged, added.embedded) == (1, 6, 1)


def test_a_changed_image_gets_a_new_embedding_in_the_same_row(index: Index, library: Path) -> None:
    before = _rows(index)
    (library / "0.png").write_bytes(encoded("PNG", 77))
    added = index.add(library)
    after = _rows(index)
    assert (added.changed, added.unchanged, added.embedded) == (1, 5, 1)
    assert after.keys() == before.keys()
    assert after["0.png"]["hash"] != before["0.png"]["hash"]
    assert after["0.png"]["vector"] != before["0.png"]["vector"]


def test_a_touched_image_is_not_embedded_again(index: Index, library: Path) -> None:
    os.utime(library / "0.png")
    assert (index.add(library).unchanged, index.add(library).embedded) == (6, 0)


def test_a_renamed_image_keeps_its_embedding(index: Index, library: Path) -> None:
    before = _rows(index)
    (library / "0.png").rename(library / "sub" / "moved.png")
    added = index.add(library)
    after = _rows(index)
    assert (added.renamed, added.unchanged, added.embedded) == (1, 5, 0)
    assert after.keys() == before.keys() - {"0.png"} | {"sub/moved.png"}
    assert after["sub/moved.png"]["vector"] == before["0.png"]["vector"]
    assert after["sub/moved.png"]["folder"] == to_text(library / "sub")


def test_a_moved_library_keeps_its_embeddings(index: Index, library: Path, tmp_path: Path) -> None:
    shutil.copy(library / "0.png", library / "copy.png")
    index.add(library)
    library.rename(tmp_path / "moved")
    moved = Index(tmp_path / "moved")
    added = moved.add(tmp_path / "moved")
    assert (added.rebased, added.unchanged, added.embedded, added.new) == (7, 7, 0, 0)
    assert set(_rows(moved)) == {
        path.relative_to(tmp_path / "moved").as_posix() for path in moved.folder.parent.rglob("*.png")
    }


def test_a_copy_takes_the_embedding_and_has_its_own_row(index: Index, library: Path) -> None:
    shutil.copy(library / "0.png", library / "copy.png")
    added = index.add(library)
    rows = _rows(index)
    assert (added.copied, added.embedded, len(rows)) == (1, 0, 7)
    assert rows["copy.png"]["vector"] == rows["0.png"]["vector"]


def test_copies_in_one_run_are_embedded_once(index: Index, library: Path) -> None:
    for at in range(40):  # more than a batch
        (library / f"same {at}.png").write_bytes(encoded("PNG", 55))
    added = index.add(library, batch_size=8)
    assert (added.new, added.copied, added.embedded) == (1, 39, 1)


def test_two_images_that_swap_names_swap_embeddings(index: Index, library: Path) -> None:
    before = _rows(index)
    (library / "0.png").rename(library / "x")
    (library / "2.png").rename(library / "0.png")
    (library / "x").rename(library / "2.png")
    for name in ("0.png", "2.png"):
        os.utime(library / name)
    added = index.add(library)
    after = _rows(index)
    assert (added.changed, added.embedded) == (2, 0)
    assert after["0.png"]["vector"] == before["2.png"]["vector"]
    assert after["2.png"]["vector"] == before["0.png"]["vector"]


def test_a_deleted_image_is_removed_by_pruning(index: Index, library: Path) -> None:
    (library / "0.png").unlink()
    assert (index.add(library).gone, len(index)) == (1, 6)
    assert (index.add(library, prune=True).pruned, len(index)) == (1, 5)


def test_prune_removes_images_that_are_gone(index: Index, library: Path) -> None:
    (library / "0.png").unlink()
    assert (index.prune().pruned, len(index)) == (1, 5)


def test_a_library_that_is_suddenly_empty_is_not_pruned(index: Index, library: Path) -> None:
    for path in library.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"would remove 6 images.* mounted"):
        index.add(library, prune=True)
    assert (index.add(library).gone, len(index)) == (6, 6)
    assert (index.add(library, prune_all=True).pruned, len(index)) == (6, 0)


def test_pruning_one_folder_leaves_the_rows_of_others(index: Index, library: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(encoded("PNG", 40))
    (other / "y.png").write_bytes(encoded("PNG", 41))
    index.add(other)
    (other / "y.png").unlink()
    (library / "0.png").unlink()
    assert (index.add(other, prune=True).pruned, len(index)) == (1, 7)


def test_an_interrupted_rename_is_completed_by_the_next_run(index: Index, library: Path) -> None:
    row = _rows(index)["0.png"]
    (library / "0.png").rename(library / "moved.png")
    index.add(library)
    table = index.store.table.search().limit(100).to_arrow()
    old = table.slice(0, 1).to_pylist()[0] | row
    index.store.add(diptych.search.rows.to_table([old], index.store.identity.dim))  # as if the old row had stayed
    added = index.add(library)
    assert (added.pruned, added.unchanged, added.gone) == (1, 6, 0)
    assert set(_rows(index)) & {"0.png", "moved.png"} == {"moved.png"}


def test_a_copy_that_is_deleted_stays_until_it_is_pruned(index: Index, library: Path) -> None:
    (library / "copy.png").write_bytes((library / "0.png").read_bytes())
    os.utime(library / "copy.png", ns=(0, 0))
    index.add(library)
    (library / "copy.png").unlink()
    assert (index.add(library).gone, len(index)) == (1, 7)
    assert (index.add(library, prune=True).pruned, len(index)) == (1, 6)


# what is wrong


def test_broken_files_are_skipped_with_their_reasons(index: Index, library: Path) -> None:
    paths = [library / f"broken {at}.png" for at in range(len(BROKEN))]
    reasons = break_files(paths)
    (library / "late.png").write_bytes(encoded("PNG", 60))
    added = index.add(library)
    found = {Path(each.path): each.reason for each in added.skipped}
    listed = {path: reason for path, reason in reasons.items() if path.is_file()}  # a folder or nothing is no picture
    assert found == listed
    assert added.new == 1
    told = json.loads((index.folder / "skipped.json").read_text("utf-8"))
    assert {Path(each["path"]): each["reason"] for each in told} == listed
    assert sum(added.reasons.values()) == len(listed)


def test_a_broken_image_leaves_the_index_and_returns_when_repaired(index: Index, library: Path) -> None:
    whole = (library / "0.png").read_bytes()
    (library / "0.png").write_bytes(whole[:100])
    added = index.add(library)
    assert (len(added.skipped), len(index)) == (1, 5)
    (library / "0.png").write_bytes(whole)
    assert (index.add(library).new, len(index)) == (1, 6)


def test_another_model_is_refused(index: Index, library: Path, tmp_path: Path) -> None:
    names = ("image_tower", "text_tower", "pretrained", "text_arguments", "image_size", "crop", "device")
    other = diptych.build(**{name: TINY[name] for name in names}, dim=16, projection="linear", captions=["x"])
    with pytest.raises(ModelError, match="make another index"):
        Index(library, other)
    with pytest.raises(ModelError, match="16 dimensions"):
        nearest_rows(index.store, np.ones(8, np.float32), 3)


def test_a_model_that_changed_on_disk_is_refused(library: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    Index(library, folder).add(library)
    metadata = json.loads((library / ".diptych" / "index.json").read_text("utf-8"))
    metadata["model"]["hash"] = "0" * 16
    (library / ".diptych" / "index.json").write_text(json.dumps(metadata), "utf-8")
    with pytest.raises(ModelError, match="was made by"):
        _ = Index(library).model


def test_no_index_and_no_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="diptych index FOLDER"):
        Index(tmp_path)
    with pytest.raises(DataError, match="diptych index FOLDER"):
        find_index(tmp_path)


def test_an_index_is_not_made_in_a_folder_of_other_files(library: Path, model: diptych.DualEncoder) -> None:
    identity = Index(library, model).store.identity
    with pytest.raises(DataError, match="name a new folder"):
        Store.create(library / "sub", identity)


def test_an_index_of_a_newer_format_is_refused(index: Index) -> None:
    metadata = json.loads((index.folder / "index.json").read_text("utf-8"))
    (index.folder / "index.json").write_text(json.dumps(metadata | {"format": 99}), "utf-8")
    with pytest.raises(DataError, match="format 99"):
        Index(index.folder.parent)


# where it lies


def test_the_index_is_hidden_in_the_library_and_found_from_within(index: Index, library: Path) -> None:
    assert index.folder == library / ".diptych"
    assert find_index(library / "sub") == find_index(library) == find_index(library / ".diptych") == index.folder
    assert index.store.root == library


def test_an_index_may_lie_elsewhere(library: Path, tmp_path: Path, model: diptych.DualEncoder) -> None:
    index = Index(tmp_path / "index", model)
    index.add(library)
    assert len(Index(tmp_path / "index")) == 6
    assert not (library / ".diptych").exists()


# other sources


def test_captions_of_a_data_set_are_indexed_and_may_change(
    tmp_path: Path, library: Path, model: diptych.DualEncoder
) -> None:
    def rows(caption: str) -> Iterator[Row]:
        for path in sorted(library.rglob("*.png")):
            yield Row(path.name, path, (caption, "second") if path.name == "0.png" else ("first", " "))

    index = Index(library, model)
    assert index.add(library).new == 6
    assert index.add(Pairs.from_rows(rows("first"))).changed == 6
    assert _rows(index)["0.png"]["caption"] == "first\nsecond"
    assert _rows(index)["2.png"]["caption"] == "first"
    added = index.add(Pairs.from_rows(rows("another")))
    assert (added.changed, added.unchanged, added.embedded) == (1, 5, 0)
    assert _rows(index)["0.png"]["caption"] == "another\nsecond"
    assert index.add(library).unchanged == 6  # a walk knows no captions and takes none away
    (library / "0.png").rename(library / "moved.png")
    index.add(library)
    assert _rows(index)["moved.png"]["caption"] == "another\nsecond"


def test_images_in_a_tar_are_indexed_in_place(tmp_path: Path, model: diptych.DualEncoder) -> None:
    shard = write_shard(tmp_path / "shard.tar")
    index = Index(tmp_path / "index", model)
    assert index.add(shard).new == 2
    assert index.add(shard).unchanged == 2
    captions = {row["path"].rpartition("/")[2]: row["caption"] for row in index.store.table.search().to_list()}
    assert captions == {"000.png": "picture 0", "001.png": "picture 1"}
    shard.unlink()
    assert index.prune(prune_all=True).pruned == 2


def test_precomputed_embeddings_are_indexed(tmp_path: Path, model_folder: Path) -> None:
    vectors = stored_vectors(tmp_path / "vectors")
    index = Index.for_embeddings(tmp_path / "index", str(model_folder), tmp_path / "vectors")
    added = index.add(tmp_path / "vectors")
    assert (added.new, [each.reason for each in added.skipped]) == (13, ["not_a_vector"])
    found = nearest_rows(index.store, vectors[3].astype(np.float32), 1).to_pylist()[0]
    assert found["path"] == to_text(tmp_path / "vectors" / "000000003.jpg")
    assert (found["caption"], found["score"]) == ("picture 3", pytest.approx(1, abs=1e-3))
    assert index.add(tmp_path / "vectors").unchanged == 13
    assert (index.prune().pruned, len(index)) == (0, 13)
    assert index.model.dim == 16  # texts can be asked for by the model that was named


def test_an_image_that_a_source_names_twice_has_one_row(
    index: Index, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.setattr("diptych.search.add._COMMIT_ROWS", 1)
    (library / "new.png").write_bytes(encoded("PNG", 50))
    twice = [Row(name, library / "new.png", (name,)) for name in ("one", "two", "three")]
    index.add(Pairs.from_rows(twice), batch_size=1)
    assert "new.png" in _rows(index)  # which checks that no row stands twice
    vectors = tmp_path / "vectors"
    stored_vectors(vectors)
    shutil.copy(vectors / "metadata" / "metadata_0.parquet", vectors / "metadata" / "metadata_1.parquet")
    monkeypatch.setattr("diptych.search.precomputed._BLOCK", 4)
    stored = Index.for_embeddings(tmp_path / "index", str(model_folder), vectors)
    added = stored.add(vectors)
    assert (added.new, added.reasons) == (7, {"repeated": 6, "not_a_vector": 1})
    assert len(stored) == 7


def test_a_model_in_memory_must_be_passed_again(index: Index, library: Path) -> None:
    with pytest.raises(ModelError, match="pass it as `model`"):
        _ = Index(library).model


def test_embeddings_of_another_dimension_are_refused(index: Index, tmp_path: Path) -> None:
    stored_vectors(tmp_path / "vectors", dim=8)
    with pytest.raises(ModelError, match="8 dimensions"):
        index.add(tmp_path / "vectors")
    with pytest.raises(ConfigError, match="name the model"):
        Index.for_embeddings(tmp_path / "index", None, tmp_path / "vectors")


# several processes


def _keep_indexing(library: str, acknowledged: Any) -> None:
    """Index with a transaction every few pictures, and tell how many are on disk."""
    from diptych.search import add as module

    module._COMMIT_ROWS = 8
    index = Index(library)

    def told(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for item in items:
            yield item
            acknowledged.value = len(index)

    index.add(library, prune=True, batch_size=4, progress=told)


def _forking() -> Any:
    """Processes that begin with the libraries loaded, and without threads of LanceDB's."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system starts no process quickly enough")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diptych.models.dual_encoder", "diptych.search.index", "timm"])
    return context


@pytest.mark.timeout(900)  # its processes import the libraries anew, which takes minutes on a busy machine
def test_a_killed_run_loses_no_committed_row_and_the_next_continues(tmp_path: Path, model_folder: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for at in range(120):
        (library / f"{at}.png").write_bytes(encoded("PNG", at))
    Index(library, model_folder)
    context = _forking()
    acknowledged = context.Value("q", 0)
    for wait in (8, 40, 80):
        process = context.Process(target=_keep_indexing, args=(str(library), acknowledged))
        process.start()
        while process.is_alive() and acknowledged.value < wait:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode != 0, "it ended before it was killed"
        kept = acknowledged.value
        assert len(Index(library)) >= kept
        (library / f"{wait}.png").unlink()  # the world goes on
        (library / f"{wait} again.png").write_bytes(encoded("PNG", 1_000 + wait))
        (library / f"{wait + 1}.png").rename(library / f"{wait + 1} moved.png")
    index = Index(library)
    added = index.add(library, prune=True)
    assert added.new < 120
    assert set(_rows(index)) == {path.name for path in library.glob("*.png")}
    fresh = Index(tmp_path / "fresh", model_folder)
    fresh.add(library)
    vectors = {row["path"]: row["vector"] for row in fresh.store.table.search().limit(1_000).to_list()}
    for row in _rows(index).values():
        assert np.allclose(row["vector"], vectors[row["path"]], atol=2e-3)


def _add_alone(library: str, source: str, told: Any) -> None:
    index = Index(library)
    index.add(source, on_wait=told.put)
    told.put("done")


@pytest.mark.timeout(900)
def test_a_second_writer_waits_and_a_reader_sees_whole_rows(tmp_path: Path, index: Index, model_folder: Path) -> None:
    sources = [tmp_path / name for name in ("one", "two")]
    for part, source in enumerate(sources):
        source.mkdir()
        for at in range(40):
            (source / f"{at}.png").write_bytes(encoded("PNG", 100 + 40 * part + at))
    shared = tmp_path / "shared"
    Index(shared, model_folder)
    context = _forking()
    told = context.Queue()
    writers = [context.Process(target=_add_alone, args=(str(shared), str(source), told)) for source in sources]
    for writer in writers:
        writer.start()
    reader, sizes = Store.open(shared), [0]
    while any(writer.is_alive() for writer in writers):
        sizes.append(nearest_rows(reader, np.ones(16, np.float32), 1_000).num_rows)
    for writer in writers:
        writer.join()
    said = [told.get(timeout=10) for _ in range(told.qsize())]
    assert said.count("done") == 2
    assert sizes == sorted(sizes), "rows that were there went away"
    ids = [row["id"] for row in reader.table.search().limit(1_000).to_list()]
    assert (len(ids), len(set(ids))) == (80, 80)


def test_a_second_writer_learns_which_process_writes(index: Index, library: Path) -> None:
    told: list[str] = []
    with index.store.lock(), pytest.raises(IndexBusy, match=rf"process {os.getpid()} on .* is writing"):
        Index(library).add(library, wait=0.05, on_wait=told.append)
    assert told == [message for message in told if "waiting" in message] != []
    assert index.add(library).unchanged == 6


def test_watching_reports_new_renamed_and_deleted_images(index: Index, library: Path) -> None:
    stop, reports = threading.Event(), []
    steps: list[Callable[[], Any]] = [
        lambda: (library / "new.png").write_bytes(encoded("PNG", 70)),
        lambda: (library / "new.png").rename(library / "sub" / "newer.png"),
        lambda: (library / "sub" / "newer.png").unlink(),
        stop.set,
    ]
    for report in index.watch(library, stop=stop, quiet=0.1):
        reports.append(report)
        threading.Timer(0.5, steps[len(reports) - 1]).start()
    assert [(each.new, each.renamed, each.pruned) for each in reports] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


@pytest.mark.parametrize("made_by", ["../../elsewhere", "/tmp/graph", "", 7, ["0"]])
def test_an_index_whose_model_hash_is_not_a_hash_is_refused(index: Index, made_by: object) -> None:
    metadata = json.loads((index.folder / "index.json").read_text())
    metadata["model"]["hash"] = made_by
    (index.folder / "index.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"index.json does not name the model that made the index"):
        Index(index.folder)
