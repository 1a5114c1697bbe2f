"""A server, its page and its agent tools read nothing outside the roots, and their errors reveal nothing about it."""

# ruff: noqa: F811 - fixtures of other files

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diptych
from diptych.errors import DataError, DiptychError
from diptych.images.decode import read_bytes
from diptych.images.paths import path_id, to_text
from diptych.search.filters import Filters
from diptych.search.rows import to_table
from diptych.serving.agents.tools import Tools
from diptych.serving.client import Client
from diptych.serving.service import Service
from tests.broken import encoded
from tests.search.test_index import model, model_folder  # noqa: F401 - fixtures
from tests.search.test_security_paths import holiday, own_cache, private, row  # noqa: F401 - fixtures

pytest.importorskip("fastapi")
pytest.importorskip("lancedb")

# Paths outside and missing paths get the same error, and so do user names, processes and invalid names.
ELSEWHERE = [
    *("/etc", "/etc/passwd", "/etc/no-such-file", "/proc/self", "/proc/999999999", "~root", "~nobody-at-all/x"),
    *("~root/.ssh", "..", "../private", "\0", "a\0b", "x" * 4_000, "/" + "a/" * 2_000, "//server/share/x.png"),
    *(r"\\server\share\x.png", r"C:\Windows", "hf://datasets/x", "file:///etc/passwd", "http://127.0.0.1:1/x", "."),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that may be read, with one picture."""
    (tmp_path / "root" / "photos").mkdir(parents=True)
    (tmp_path / "root" / "photos" / "0.png").write_bytes(encoded("PNG", 0))
    return tmp_path / "root"


@pytest.fixture
def service(root: Path, tmp_path: Path, model: diptych.DualEncoder) -> Service:
    return Service(model, index=tmp_path / "index", roots=[root], device="cpu")


@pytest.fixture
def api(service: Service) -> Iterator[httpx2.Client]:
    """A server on the loopback."""
    from diptych.serving.api.app import make_app
    from tests.servers import running

    with running(make_app(service)) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def _error(answer: Any) -> dict[str, str]:
    body = answer.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"type", "message", "request_id"}
    error: dict[str, str] = body["error"]
    return error


def _paths(service: Service) -> set[str]:
    assert service.index is not None
    return {row["path"] for row in service.index.store.table.search().to_list()}


# paths in requests


def test_paths_outside_and_missing_paths_get_the_same_response(
    api: httpx2.Client,
    service: Service,
    root: Path,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (root / "link").symlink_to(private.parent)
    (root / "loop").symlink_to(root / "loop")
    inside = [str(root / name) for name in ("link", "link/secret.png", "link/none.png", "loop", "loop/x", "none")]
    tools = Tools(service)
    answers = set()
    for path in (*ELSEWHERE, str(private), str(private.parent / "none.png"), *inside):
        answer = api.post("/v1/index/add", json={"path": path})
        assert answer.status_code == 422, (path, answer.text)
        messages = [_refused(tools.index_folder, path), _refused(tools.caption_image, path)]
        if _is_malformed(path):
            assert _error(answer)["type"] == "invalid_request"
        else:
            messages.append(_error(answer)["message"])
        for message in messages:
            assert str(Path.cwd()) not in message.replace(path, "")
            answers.add(message.replace(f"'{path}'", "X").replace(f"'{path[:200]}…'", "X"))
    assert len(answers) == 1, answers
    assert not service.index


def _is_malformed(path: str) -> bool:
    """Whether the API refuses a path by its text alone, which reveals nothing about the file system."""
    return "\0" in path or path.startswith("~") or len(path) > 4_000 or max(map(len, path.split("/"))) > 255


def _refused(tool: Any, path: str) -> str:
    with pytest.raises(DataError) as fault:
        tool(path)
    return str(fault.value)


def test_a_path_outside_by_its_name_is_never_looked_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("os.path.realpath", lambda path, **_: looked.append(str(path)) or str(path))
    monkeypatch.setattr("pathlib.Path.exists", lambda path: looked.append(str(path)) or True)
    for path in ("/etc/passwd", "//server/share/x.png", "~root/x", "/proc/1"):
        with pytest.raises(DataError, match="outside the folders"):
            service.allowed(path)
    assert not looked


def test_a_root_may_be_a_link(root: Path, model: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    service = Service(model, roots=[tmp_path / "link"])
    assert service.allowed(tmp_path / "link" / "photos") == service.allowed(root / "photos") == root / "photos"


@pytest.mark.parametrize("folder", ["~root/x", "~nobody-at-all/x", "\0", "x" * 4_000, "/" + "a/" * 2_000])
def test_a_folder_filter_reveals_no_user_names(api: httpx2.Client, service: Service, root: Path, folder: str) -> None:
    service.add(root / "photos")
    answer = api.post("/v1/search", json={"texts": ["a star"], "keep": None, "folder": folder})
    assert answer.status_code == 422, answer.text
    assert _error(answer)["type"] == "invalid_request"
    if folder.startswith("~"):
        assert _error(answer)["message"].endswith("home folders are not expanded; give the full path")
    elsewhere = api.post("/v1/search", json={"texts": ["a star"], "keep": None, "folder": "/etc"})
    assert (elsewhere.status_code, elsewhere.json()["total"]) == (200, 0)


# adding


def test_a_server_indexes_nothing_outside_its_roots(
    api: httpx2.Client,
    service: Service,
    root: Path,
    private: Path,
) -> None:
    (root / "photos" / "file.png").symlink_to(private)
    (root / "photos" / "folder").symlink_to(private.parent)
    (root / "photos" / "inside.png").symlink_to(root / "photos" / "0.png")
    added = api.post("/v1/index/add", json={"path": str(root / "photos")}).json()
    assert (added["images"], added["reasons"]) == (2, {"outside": 2})
    assert "`follow_links`" in added["skipped"][0]["detail"]
    assert _paths(service) == {to_text(root / "photos" / "0.png"), to_text(root / "photos" / "inside.png")}


def test_stored_embeddings_inside_a_root_add_no_images_from_outside(
    api: httpx2.Client,
    service: Service,
    root: Path,
    private: Path,
) -> None:
    folder = root / "embeddings"
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    names = ["own.png", str(private), "../../private/secret.png", "file:///etc/passwd"]
    np.save(folder / "img_emb" / "img_emb_0.npy", np.eye(len(names), 16, dtype=np.float32))
    pq.write_table(pa.table({"image_path": names}), folder / "metadata" / "metadata_0.parquet")
    added = api.post("/v1/index/add", json={"path": str(folder)}).json()
    assert (added["new"], added["reasons"]) == (2, {"outside": 2})
    assert api.get(f"/v1/images/{path_id(to_text(private))}").status_code == 422
    assert _error(api.get(f"/v1/images/{path_id('file:///etc/passwd')}"))["type"] == "image_outside"


@pytest.mark.parametrize("name", ["captions", "text", "metadata", "annotations"])
def test_a_root_named_like_a_caption_folder_opens_no_images_of_its_parent(
    name: str,
    tmp_path: Path,
    model: diptych.DualEncoder,
) -> None:
    root = tmp_path / "data" / name
    root.mkdir(parents=True)
    for folder in (root, tmp_path / "data", tmp_path / "data" / "images"):
        folder.mkdir(exist_ok=True)
        (folder / f"{folder.name}.png").write_bytes(encoded("PNG", len(folder.name)))
    names = [f"{name}.png", "data.png", "images.png"]
    (root / "set.csv").write_text("image,caption\n" + "".join(f"{name},a star\n" for name in names))
    service = Service(model, index=tmp_path / "index", roots=[root], device="cpu")
    added = service.add(root / "set.csv")
    assert (added.new, added.reasons) == (1, {"missing": 2})
    assert _paths(service) == {to_text(root / f"{name}.png")}


def test_an_index_is_not_created_through_a_link_out_of_the_roots(
    root: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "photos" / ".diptych").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        Service(model, roots=[root], device="cpu").add(root / "photos")
    assert not list((tmp_path / "elsewhere").iterdir())


# serving


def test_no_row_of_the_index_serves_an_image_from_outside(
    api: httpx2.Client,
    service: Service,
    root: Path,
    private: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.add(root / "photos")
    (root / "link").symlink_to(private.parent)
    (tmp_path / "private" / "set.tar").write_bytes(b"")
    paths = [to_text(private), to_text(root / "link" / "secret.png"), f"{to_text(root)}/../private/secret.png", "x.png"]
    service.index.store.add(to_table([row(path) for path in paths], 16))
    tools = Tools(service)
    for path in paths:
        answer = api.get(f"/v1/images/{path_id(path)}")
        assert (answer.status_code, _error(answer)["type"]) == (422, "image_outside")
        for tool in (tools.caption_image, lambda id: tools.match_image(id, ["a dog"])):
            with pytest.raises(DiptychError, match="outside the folders"):
                tool(path_id(path))
    shown = tools.search_images("a red star", 20)
    assert len(shown.thumbnails) <= 1
    own = to_text(root / "photos" / "0.png")
    assert api.get(f"/v1/images/{path_id(own)}").status_code == 200
    followed = Service(service.encoder, index=tmp_path / "index", roots=[root], follow_links=True, device="cpu")
    assert followed.image(path_id(to_text(private))).size == (48, 40)


def test_reranking_reads_no_image_outside(service: Service, root: Path, private: Path) -> None:
    seen: list[int] = []

    class Matcher:
        encoder = service.encoder

        def predict(self, images: list[Any], texts: list[str], **_: Any) -> list[float]:
            seen.append(len(images))
            return [0.5] * len(images)

    service.add(root / "photos")
    service.index.store.add(to_table([row(to_text(private))], 16))
    service.loaded.names["matcher"] = Matcher()
    assert len(service.search("a star", keep=None, rerank=5)) == 2
    assert seen == [1]


def test_the_page_shows_no_image_outside(
    service: Service,
    root: Path,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("streamlit")
    from diptych.serving.app import services, thumbnails

    service.add(root / "photos")
    monkeypatch.setattr(services, "shared_service", lambda *_: service)
    monkeypatch.setattr(services, "current_library", lambda: str(root))
    assert thumbnails.thumbnail_of(to_text(root / "photos" / "0.png"))
    assert thumbnails.thumbnail_of(to_text(private)) is None


def test_a_link_that_replaces_an_image_while_it_is_read_is_not_followed(
    service: Service,
    root: Path,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.add(root / "photos")
    image = root / "photos" / "0.png"

    def swapped(path: Any, **options: Any) -> bytes:
        image.unlink()
        image.symlink_to(private)
        return read_bytes(path, **options)

    monkeypatch.setattr("diptych.data.containers.read_bytes", swapped)
    with pytest.raises(DiptychError, match="outside"):
        service.image(path_id(to_text(image)))


# the model of an untrusted index


def test_no_operation_loads_the_model_that_an_untrusted_index_names(
    holiday: Path,
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("streamlit")
    from diptych.models.dual_encoder import load
    from diptych.serving.app import services

    other = diptych.build(**_other(), captions=["a blue ring"])
    other.save(tmp_path / "own")
    loaded: list[str] = []
    monkeypatch.setattr(
        "diptych.models.dual_encoder.load", lambda name, *rest: loaded.append(str(name)) or load(name, *rest)
    )
    service = Service(tmp_path / "own", index=holiday, roots=[holiday], device="cpu")
    for operation in (lambda: service.search("a dog"), lambda: Tools(service).search_images("a dog")):
        with pytest.raises(DiptychError, match="name it once"):
            operation()
    with pytest.raises(DiptychError, match="name it once"):
        services._model_of(str(holiday))
    assert set(loaded) == {str(tmp_path / "own")}
    named = Service(holiday / "model", index=holiday, roots=[holiday], device="cpu")
    assert len(named.search("a dog", keep=None)) == 1
    assert services._model_of(str(holiday)) == str(holiday / "model")


def _other() -> dict[str, Any]:
    from tests.conftest import TINY

    names = ("image_tower", "text_tower", "pretrained", "text_arguments", "image_size", "crop", "dim", "device")
    return {**{name: TINY[name] for name in names}, "projection": "linear"}


# names of files in other forms


def _forms(file: Path, root: Path, folder: str) -> list[str]:
    """A path in the forms that agents and other programs send."""
    relative = str(file.relative_to(root))
    uri = file.as_uri()
    return [
        str(file),
        uri,
        uri.replace("file://", "file://localhost"),
        uri.replace("file://", "FILE:"),
        relative,
        f"./{relative}",
        f"{folder}/../{relative}",
    ]


def test_a_file_may_be_named_by_its_uri_or_relative_to_a_root(service: Service, root: Path) -> None:
    file = root / "photos" / "a cat, 100% #1.png"
    file.write_bytes(encoded("PNG", 3))
    service.add("photos")
    tools = Tools(service)
    for name in _forms(file, root, "photos"):
        assert service.allowed(name) == file, name
        assert tools.find_similar(name, 1).data["hits"][0]["path"] == str(file), name
    for name in _forms(root / "photos", root, "photos"):
        assert tools.index_folder(name).data["summary"] == "2 unchanged", name
        assert service.add(name).unchanged == 2


def test_a_relative_name_is_looked_for_in_the_roots_in_their_order(model: Any, tmp_path: Path) -> None:
    for root, file in (("a", "x.png"), ("b", "x.png"), ("b", "y.png")):
        (tmp_path / root).mkdir(exist_ok=True)
        (tmp_path / root / file).write_bytes(encoded("PNG", 0))
    service = Service(model, roots=[tmp_path / "a", tmp_path / "b"], device="cpu")
    assert service.allowed("x.png") == tmp_path / "a" / "x.png"
    assert service.allowed("y.png") == tmp_path / "b" / "y.png"


def test_no_uri_and_no_relative_name_leads_out_of_the_roots(service: Service, root: Path, private: Path) -> None:
    (root / "link").symlink_to(private.parent)
    outside = [
        private.as_uri(),
        f"file://localhost{private}",
        f"file:{private}",
        f"file://{root}/../{private.relative_to(root.parent)}",
        f"file://{root}/%2e%2e/{private.relative_to(root.parent)}",
        f"file://elsewhere{root}/photos/0.png",
        f"file://{root}/photos/0.png%00",
        "file:photos/0.png",
        "file://",
        f"../{private.relative_to(root.parent)}",
        f"photos/../../{private.relative_to(root.parent)}",
        "link/secret.png",
        "photos/0.png\0",
        "~/photos/0.png",
    ]
    for name in outside:
        with pytest.raises(DataError, match="does not exist or is outside the folders that may be read"):
            service.allowed(name)


def test_the_path_of_a_hit_names_its_file_even_if_it_is_not_utf_8(
    service: Service, api: httpx2.Client, root: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.png")).write_bytes(encoded("PNG", 4))
    service.add(root)
    shown = next(path for path in _paths(service) if not path.endswith("0.png"))
    assert Tools(service).find_similar(shown, 1).data["hits"][0]["path"] == shown
    parent = shown.rpartition("/")[0]
    results = api.post("/v1/search", json={"texts": ["a star"], "keep": None, "folder": parent}).json()
    assert [hit["path"] for hit in results["hits"]] == [shown]
    assert api.post("/v1/index/add", json={"path": parent}).json()["unchanged"] == 1
    with Client(str(api.base_url)) as client:
        assert client.add(folder).unchanged == 1
        assert [hit.path for hit in client.search("a star", keep=None, filters=Filters(folder=folder))] == [shown]
