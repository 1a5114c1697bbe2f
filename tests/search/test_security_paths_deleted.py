"""An index that is deleted, damaged or written to under a server: one clear error, and it can be made again."""

# ruff: noqa: F811 - fixtures of other files

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from diptych.images.paths import path_id, to_text
from diptych.search.index import Index
from diptych.serving.service import Service
from tests.broken import encoded
from tests.search.test_index import model, model_folder  # noqa: F401 - fixtures
from tests.search.test_security_paths import own_cache  # noqa: F401 - a fixture
from tests.serving.test_security_paths_served import _error, api, root, service  # noqa: F401 - fixtures

pytest.importorskip("fastapi")
pytest.importorskip("lancedb")


@pytest.mark.parametrize("what", ["index", "index/pictures.lance", "index/index.json"])
def test_an_index_that_is_deleted_is_one_clear_error_and_what_is_left_of_it_is_not_overwritten(
    what: str, api: httpx2.Client, service: Service, root: Path, tmp_path: Path
) -> None:
    add = {"path": str(root / "photos")}
    assert api.post("/v1/index/add", json=add).json()["new"] == 1
    id = path_id(to_text(root / "photos" / "0.png"))
    assert api.post("/v1/search", json={"texts": ["a star"], "keep": None}).json()["total"] == 1
    shutil.rmtree(tmp_path / what) if (tmp_path / what).is_dir() else (tmp_path / what).unlink()
    for answer in (
        api.post("/v1/search", json={"texts": ["a star"]}),
        api.post("/v1/search", json={"texts": ["a star"], "min_side": 1}),
        api.post("/v1/search", json={"like": [id]}),
        api.post("/v1/index/remove", json={"ids": [id]}),
        api.get(f"/v1/images/{id}"),
    ):
        error = _error(answer)
        assert answer.status_code == 404, answer.text
        assert error["type"] == "index_missing"
        assert str(tmp_path) not in error["message"]
        assert "lance" not in error["message"].lower()
    assert api.get("/v1/index").json()["images"] == 0
    again = api.post("/v1/index/add", json=add)
    if what == "index/index.json":  # its rows are still there, without their model and exclusions
        assert again.status_code == 422
        assert "--rebuild" in _error(again)["message"]
        assert str(tmp_path) not in again.text
        return
    assert again.status_code == 200, again.text
    assert api.post("/v1/search", json={"texts": ["a star"], "keep": None}).json()["total"] == 1


def test_an_index_without_its_files_gives_an_error_without_internals(
    api: httpx2.Client, service: Service, root: Path, tmp_path: Path
) -> None:
    service.add(root / "photos")
    shutil.rmtree(tmp_path / "index" / "pictures.lance" / "data")
    for asked in ({"texts": ["a star"]}, {"texts": ["a star"], "min_side": 1}):
        answer = api.post("/v1/search", json=asked)
        assert (answer.status_code, _error(answer)["type"]) == (422, "data_error")
        assert "damaged" in answer.text
        assert str(tmp_path) not in answer.text


def test_an_index_deleted_during_a_search_gives_the_same_error(
    api: httpx2.Client, service: Service, root: Path, tmp_path: Path
) -> None:
    service.add(root / "photos")
    index, search = service.index, Index.search

    def late(self: Index, *arguments: Any, **settings: Any) -> Any:
        shutil.rmtree(tmp_path / "index")
        return search(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "search", late)
        error = _error(api.post("/v1/search", json={"texts": ["a star"], "min_side": 1}))
    assert index is not None
    assert error["type"] == "index_missing"


def test_an_index_that_replaces_an_open_one_is_reopened(service: Service, root: Path, tmp_path: Path) -> None:
    service.add(root / "photos")
    shutil.rmtree(tmp_path / "index")
    (root / "photos" / "1.png").write_bytes(encoded("PNG", 1))
    Index(tmp_path / "index", service.encoder).add(root / "photos")
    assert service.status().images == 2
    assert len(service.search("a star", keep=None)) == 2


def test_the_busy_error_of_a_server_does_not_name_the_process(
    api: httpx2.Client, service: Service, root: Path, tmp_path: Path
) -> None:
    service.add(root / "photos")
    release, held = threading.Event(), threading.Event()

    def contains() -> None:
        with service.index.store.lock():
            held.set()
            release.wait(30)

    thread = threading.Thread(target=contains)
    thread.start()
    held.wait(30)
    try:
        answer = api.post("/v1/index/add", json={"path": str(root / "photos")})
    finally:
        release.set()
        thread.join()
    holder = json.loads((tmp_path / "index" / "writer.json").read_text())
    assert answer.status_code == 423
    assert not any(str(value) in answer.text for value in (holder["pid"], holder["host"], tmp_path))
