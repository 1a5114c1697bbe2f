"""Untrusted indexes: they load no model that the user did not name, and read no file outside their folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import diptych
from diptych.errors import DataError, DiptychError, ModelError
from diptych.images.decode import read_bytes
from diptych.images.paths import path_id, to_text
from diptych.search.index import Index, ModelIdentity, Store
from diptych.search.rows import to_table
from tests.broken import encoded
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture
from tests.search.test_index import model, model_folder  # noqa: F401 - fixtures

pytest.importorskip("lancedb")

DENIED = "name it once"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test allows counts for no other."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def holiday(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A stranger's folder of pictures with an index that names a model in it; made elsewhere, then copied here."""
    library = tmp_path / "holiday"
    library.mkdir()
    shutil.copytree(model_folder, library / "model")
    (library / "0.png").write_bytes(encoded("PNG", 0))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("DIPTYCH_CACHE", str(tmp_path / "strangers-cache"))
        Index(library, library / "model", device="cpu").add(library)
    return library


def row(path: str, dim: int = 16) -> dict[str, Any]:
    """A row for a path, as whoever writes the table can make it."""
    vector = np.eye(1, dim, dtype=np.float32)[0]
    facts = {"hash": path_id(path), "size": 9, "mtime": 9, "vector": vector}
    return {"id": path_id(path), "path": path, "folder": "/", **facts}


# the model that an index names


def test_an_index_cannot_choose_a_model_that_is_not_bundled(
    holiday: Path,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(holiday)
    monkeypatch.setattr("diptych.models.dual_encoder.load", lambda *_: pytest.fail("the stranger's model was loaded"))
    monkeypatch.setattr(
        "diptych.models.checkpoints.read_metadata", lambda *_: pytest.fail("the stranger's metadata was read")
    )
    for attempt in (lambda: Index(".").model, lambda: Index(".").search("a dog"), lambda: Index(".").matcher):
        with pytest.raises(ModelError, match=DENIED):
            attempt()
    (holiday / "1.png").write_bytes(encoded("PNG", 1))
    for words in (("search", "a dog"), ("search", "--image", "0.png"), ("index", "."), ("cluster",)):
        ended = run(*words)
        assert ended.code != 0
        assert DENIED in " ".join(ended.err.split()), words
        assert "--model" in ended.err
    assert run("dedupe").code == 0  # which needs no model


def test_a_model_named_once_is_allowed_for_that_index_only(holiday: Path, tmp_path: Path) -> None:
    Index(holiday, holiday / "model", device="cpu").search("a dog", keep=None)
    assert len(Index(holiday, device="cpu").search("a dog", keep=None)) == 1
    shutil.copytree(holiday / ".diptych", tmp_path / "copy")
    with pytest.raises(ModelError, match=DENIED):
        _ = Index(tmp_path / "copy").model
    metadata = holiday / ".diptych" / "index.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"id": "f" * 16}))  # another index in its place
    with pytest.raises(ModelError, match=DENIED):
        _ = Index(holiday).model


def test_the_command_that_names_the_model_allows_it(
    holiday: Path,
    run: Run,  # noqa: F811
) -> None:
    words = ("search", "a dog", "--nearest", "--index", holiday, "--device", "cpu")
    assert run(*words).code != 0
    assert run(*words, "--model", holiday / "model").code == 0
    assert run(*words).code == 0


def test_a_local_folder_does_not_replace_an_allowed_hub_name(
    holiday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    Store.create(kept, ModelIdentity("some/model", None, 16))
    Index(kept, "some/model")
    assert Index(kept).model_name == "some/model"
    (holiday / "some").mkdir()
    shutil.move(holiday / "model", holiday / "some" / "model")
    monkeypatch.chdir(holiday)
    with pytest.raises(ModelError, match=DENIED):
        _ = Index(kept).model


def test_a_folder_with_the_name_of_a_bundled_model_is_not_loaded(
    holiday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(holiday / "model", holiday / "mini")
    monkeypatch.chdir(holiday)
    store = Index(tmp_path / "new", "mini", device="cpu").store
    assert (store.identity.name, store.identity.dim) == ("mini", 256)


# what lies in the folder of an index


@pytest.mark.parametrize("name", ["writer.json", "write.lock", "skipped.json", "skipped.tmp", "pictures.lance/data"])
def test_a_link_in_an_index_overwrites_nothing(
    name: str,
    holiday: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    mine = tmp_path / "mine"
    link = holiday / ".diptych" / name
    if link.is_dir():
        shutil.move(link, mine)
    else:
        mine.write_text("my own file")
        link.unlink(missing_ok=True)
    link.symlink_to(mine)
    before = sorted(mine.iterdir()) if mine.is_dir() else mine.read_text()
    (holiday / "1.png").write_bytes(encoded("PNG", 1))
    with pytest.raises(DataError, match="is a link"):
        Index(holiday, model).add(holiday)
    assert before == (sorted(mine.iterdir()) if mine.is_dir() else mine.read_text())


GOOD = {"format": 1, "model": {"name": "mini", "hash": "ab", "dim": 16, "image_size": 32}, "root": None}
ODD: list[Any] = [
    *(None, [], {}, 7, "text", True, [GOOD], {"format": 1}, GOOD | {"format": "1"}, GOOD | {"format": None}),
    *(GOOD | {"format": True}, GOOD | {"format": 1.0}, GOOD | {"format": -1}, GOOD | {"format": 10**4000}),
    *(GOOD | {"model": value} for value in (None, [], "mini", 7, {}, {"name": "mini"}, [["name", "mini"]])),
    *(GOOD | {"model": GOOD["model"] | {"name": value}} for value in (None, 7, [], "", "\0", "\ud800", "x" * 5_000)),
    *(GOOD | {"model": GOOD["model"] | {"hash": value}} for value in (7, [], "", "../x", "ab\n", {"a": 1}, True)),
    *(GOOD | {"model": GOOD["model"] | {"dim": value}} for value in (None, "16", 0, -1, 16.0, True, 10**30, [16])),
    *(GOOD | {"model": GOOD["model"] | {"image_size": value}} for value in ("32", -1, 1.5, True, [], 10**30)),
    *(GOOD | {"root": value} for value in (7, [], {}, "\0")),
    *(GOOD | {name: value} for name in ("ann_rows", "ann_partitions", "id") for value in ("x y", [], {}, 1.5, -1)),
]


@pytest.mark.parametrize("metadata", ODD, ids=lambda metadata: repr(metadata)[:60])
def test_invalid_metadata_are_refused_with_the_files_name(metadata: Any, tmp_path: Path) -> None:
    _refused(json.dumps(metadata).encode(), tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"format": 1' + b"0" * 5_000 + b"}", b" " * 2**20, b"NaN"]
)
def test_metadata_that_are_not_json_are_refused_with_the_files_name(content: bytes, tmp_path: Path) -> None:
    _refused(content, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["format", "model", "root", "id", "ann_rows", *GOOD["model"]]), value=JSON)
def test_any_metadata_give_an_index_or_a_typed_error(name: str, value: Any, tmp_path: Path) -> None:
    inside = name in GOOD["model"]
    metadata = GOOD | ({"model": GOOD["model"] | {name: value}} if inside else {name: value})
    (tmp_path / "index.json").write_text(json.dumps(metadata))
    try:
        assert Store.open(tmp_path).partitions >= 0
    except DataError as error:
        assert "index" in str(error)  # noqa: PT017


def _refused(content: bytes, folder: Path) -> None:
    (folder / "index.json").write_bytes(content)
    for attempt in (lambda: Store.open(folder), lambda: Index(folder), lambda: Index(folder, "mini")):
        with pytest.raises(DataError) as fault:
            attempt()
        assert str(folder) in str(fault.value)
        assert "--rebuild" in str(fault.value) or "update it" in str(fault.value)
        assert len(str(fault.value)) < 1_000


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    import lancedb

    Store.create(tmp_path / "index", ModelIdentity("mini", None, 16))
    lancedb.connect(str(tmp_path / "index")).create_table(
        "pictures", pa.table({"path": [1], "vector": [[1.0]]}), mode="overwrite"
    )
    with pytest.raises(DataError, match="other columns"):
        len(Index(tmp_path / "index"))


# rows that lead elsewhere


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A picture that no stranger is to see, beside the folders that may be read."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.png").write_bytes(encoded("PNG", 7))
    return tmp_path / "private" / "secret.png"


def test_images_that_metadata_name_outside_the_folder_are_not_indexed(private: Path, tmp_path: Path, run: Run) -> None:  # noqa: F811
    folder = tmp_path / "embeddings"
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    names = ["own.png", str(private), "../private/secret.png", "a/../../private/secret.png", "link/secret.png"]
    (folder / "link").symlink_to(private.parent)
    np.save(folder / "img_emb" / "img_emb_0.npy", np.eye(len(names), 16, dtype=np.float32))
    pq.write_table(pa.table({"image_path": names}), folder / "metadata" / "metadata_0.parquet")
    index = Index.for_embeddings(tmp_path / "index", "mini", folder)
    added = index.add(folder)
    assert (added.new, added.reasons) == (1, {"outside": 4})
    followed = json.loads(run("index", folder, "--index", tmp_path / "index", "--follow-links", "--json").out)
    assert (followed["new"], followed["reasons"]) == (2, {"repeated": 2})


def test_links_that_lead_out_of_the_folder_are_skipped_and_counted_unless_followed(
    private: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    library = tmp_path / "library"
    (library / "real").mkdir(parents=True)
    (library / "real" / "0.png").write_bytes(encoded("PNG", 0))
    (library / "inside.png").symlink_to(library / "real" / "0.png")
    (library / "folder").symlink_to(private.parent)
    (library / "file.png").symlink_to(private)
    (library / "chain.png").symlink_to(library / "file.png")
    (library / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "root").symlink_to(library)
    added = Index(library, model).add(tmp_path / "root")  # the root itself may be a link
    assert (added.images, added.reasons) == (2, {"outside": 4})
    followed = Index(library, model).add(library, follow_links=True)
    assert (followed.images, followed.reasons) == (5, {})


def test_a_link_that_replaces_an_image_during_indexing_is_not_read(
    private: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "0.png").write_bytes(encoded("PNG", 0))

    def swapped(image: Any, **options: Any) -> bytes:
        (library / "0.png").unlink()
        (library / "0.png").symlink_to(private)
        return read_bytes(image, **options)

    monkeypatch.setattr("diptych.search.rows.read_bytes", swapped)
    added = Index(tmp_path / "index", model).add(library)
    assert (added.new, added.reasons) == (0, {"outside": 1})


def test_a_sidecar_that_links_out_of_the_folder_is_not_read(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (tmp_path / "password.txt").write_text("hunter2")
    for name in ("a", "b"):
        (library / f"{name}.png").write_bytes(encoded("PNG", ord(name)))
    (library / "a.txt").symlink_to(tmp_path / "password.txt")
    (library / "b.txt").write_text("a red star")
    index = Index(library, model)
    assert index.add(library, captions=True).new == 2
    assert [row["caption"] for row in index.store.table.search().to_list()] != ["hunter2", "a red star"]
    assert {row["caption"] for row in index.store.table.search().to_list()} == {None, "a red star"}


def test_a_caption_file_that_links_out_of_the_folder_is_not_read(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "a.png").write_bytes(encoded("PNG", 0))
    (tmp_path / "captions.txt").write_text("image,caption\na.png,hunter2\n")
    (library / "captions.txt").symlink_to(tmp_path / "captions.txt")
    with pytest.raises(DataError, match="leads out of the folder"):
        Index(library, model).add(library, captions=True)


def test_galleries_and_captions_read_no_image_outside_the_library(
    private: Path,
    holiday: Path,
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    index = Index(holiday)
    paths = [to_text(private), to_text(holiday / "link.png"), "0.png"]
    (holiday / "link.png").symlink_to(private)
    index.store.add(to_table([row(path) for path in paths], 16))
    ended = run(
        "search", "--like", holiday / "0.png", "--index", holiday, "--no-fold", "--out", tmp_path / "found.html"
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / "found.html").read_text().count("not available") == 3
    from diptych.search.captions import IndexCaptions

    sink = IndexCaptions(index.store)
    assert [path for path, _ in sink.images(sink.paths())] == [to_text(holiday / "0.png")]
    assert {each.reason for each in sink.skipped} == {"outside"}


def test_a_relative_or_outside_row_path_is_not_read(holiday: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(holiday)
    index = Index(holiday)
    for path in ("0.png", "", "\0", "~/x.png", "//server/share/x.png", "x" * 10_000, f"{to_text(holiday)}/../x.png"):
        with pytest.raises(DiptychError, match="outside"):
            index.image_at(path)
    assert os.fspath(index.image_at(to_text(holiday / "0.png"))) == str(holiday / "0.png")  # type: ignore[arg-type]
