"""Hostile visitors of the page and clients of the tools: foreign origins, uploads without end, streams left idle."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("streamlit", reason="the page comes with the extra 'app'")

from starlette.testclient import TestClient
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from diptych.serving.agents.mcp_server import http_app, make_server
from diptych.serving.api.settings import Settings
from diptych.serving.app import uploads
from diptych.serving.app.uploads import Uploads
from tests.servers import free_port, running
from tests.serving.test_security_api import Stub

ACCEPT = {"Accept": "application/json, text/event-stream"}


# the page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that was started in a stranger's folder, which brings settings of its own."""
    folder, port = tmp_path_factory.mktemp("stranger"), free_port()
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text('[server]\nbaseUrlPath = "elsewhere"\nenableCORS = false\n')
    words = [sys.executable, "-m", "diptych", "app", "--no-browser", "--port", str(port)]
    words += ["--allowed-hosts", "photos.example"]
    root = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", root).split(os.pathsep)])}
    process = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield _ready(port, process)
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int, process: subprocess.Popen) -> str:
    ended = time.monotonic() + 120
    while time.monotonic() < ended and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False)
            return f"127.0.0.1:{port}"
        time.sleep(0.3)
    pytest.fail("the page did not start")


def handshake(page: str, origin: str | None, host: str | None = None) -> int:
    """The status that answers a WebSocket's handshake; 101 opens it."""
    headers = {"Host": host} if host else {}
    url = f"ws://{page}/_stcore/stream"
    try:
        with connect(url, origin=origin, subprotocols=["streamlit"], additional_headers=headers, proxy=None):  # type: ignore[arg-type, list-item]
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_the_page_opens_for_its_own_origins_alone(page: str) -> None:
    port = page.rpartition(":")[2]
    assert handshake(page, f"http://{page}") == 101
    assert handshake(page, None) == 101  # no browser
    for origin in (
        *("http://localhost:3000", "http://127.0.0.1:1", "http://evil.example", "null", "http://0.0.0.0"),
        *(f"http://localhost:{port}", f"http://127.0.0.1:{port}.evil.example"),
    ):
        assert handshake(page, origin) == 403, origin


def test_the_page_answers_to_its_own_names_alone(page: str) -> None:
    for host, status in (("evil.example", 403), ("photos.example", 200), ("localhost", 200)):
        assert httpx2.get(f"http://{page}/", headers={"Host": host}, trust_env=False).status_code == status
    refused = httpx2.get(f"http://{page}/", headers={"Host": "evil.example"}, trust_env=False)
    assert "--allowed-hosts" in refused.json()["error"]["message"]


def test_settings_in_the_working_folder_do_not_count(page: str) -> None:
    assert httpx2.get(f"http://{page}/_stcore/health", trust_env=False).text == "ok"


SECRETS = """
import os
from diptych.serving.app.server import SCRIPT, configure
from streamlit.web.bootstrap import prepare_streamlit_environment
configure("127.0.0.1", 8501)
prepare_streamlit_environment(str(SCRIPT))
print(os.environ.get("DIPTYCH_APP"))
"""


def test_secrets_in_the_working_folder_do_not_become_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text('DIPTYCH_APP = \'{"model": "/evil"}\'\n')
    environment = {name: value for name, value in os.environ.items() if name != "DIPTYCH_APP"}
    done = subprocess.run(
        [sys.executable, "-c", SECRETS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["None"], done.stderr


class Visits:
    """Streamlit's store of uploads behind the limits of ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
        self.manager = MemoryUploadedFileManager("/_stcore/upload_file")
        runtime = types.SimpleNamespace(instance=lambda: types.SimpleNamespace(uploaded_file_mgr=self.manager))
        monkeypatch.setattr(uploads, "Runtime", runtime)
        self.app, self.size = Uploads(self._store, **limits), 0

    async def _store(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        *_, session, file = scope["path"].split("/")
        self.manager.add_file(session, UploadedFileRec(file, "x.jpg", "image/jpeg", bytes(self.size)))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def upload(self, session: str, file: str, size: int, client: str) -> None:
        self.size = size
        token = uploads.CLIENT.set(client)
        try:
            TestClient(self.app).put(f"/_stcore/upload_file/{session}/{file}")
        finally:
            uploads.CLIENT.reset(token)

    def held(self) -> dict[str, list[str]]:
        return {session: sorted(files) for session, files in self.manager.file_storage.items() if files}


def test_of_uploads_that_are_never_used_a_visit_holds_two(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch)
    for number in range(10):
        visits.upload("visit", f"file-{number}", 100, "8.8.8.8")
    assert visits.held() == {"visit": ["file-8", "file-9"]}


def test_uploads_of_many_visits_of_one_client_make_room_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch, total=1_000)
    visits.upload("ordinary", "first", 200, "8.8.4.4")
    for number in range(20):
        visits.upload(f"hostile-{number}", "file", 250, "8.8.8.8")
    assert visits.held() == {"ordinary": ["first"], **{f"hostile-{number}": ["file"] for number in (17, 18, 19)}}
    visits.upload("ordinary", "second", 200, "8.8.4.4")
    assert visits.held() == {"ordinary": ["first", "second"], **{f"hostile-{number}": ["file"] for number in (18, 19)}}


# tools over HTTP


@pytest.fixture(scope="module")
def tools() -> Iterator[str]:
    with running(http_app(make_server(Stub()), Settings()), max_connections=8) as url:  # type: ignore[arg-type]
        yield f"{url}/mcp"


def rpc(method: str, **parameters: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}


HELLO = rpc("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "x", "version": "1"})


def test_the_tools_keep_no_streams_that_a_client_could_leave_idle(tools: str) -> None:
    for _ in range(20):
        answer = httpx2.get(tools, headers=ACCEPT, trust_env=False, timeout=5)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
    newer = {**ACCEPT, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
    listen = rpc("subscriptions/listen", notifications={"toolsListChanged": True})
    with httpx2.stream("POST", tools, json=listen, headers=newer, trust_env=False, timeout=5) as answer:
        assert b"error" in answer.read()  # a stream without end would time out


def test_the_tools_keep_no_sessions_that_a_client_could_fill(tools: str) -> None:
    for _ in range(3):
        answer = httpx2.post(tools, json=HELLO, headers=ACCEPT, trust_env=False)
        assert answer.status_code == 200
        assert "mcp-session-id" not in answer.headers


def test_pages_elsewhere_cannot_use_the_tools(tools: str) -> None:
    for foreign in ({"Origin": "http://localhost:3000"}, {"Origin": "null"}, {"Host": "evil.example"}):
        refused = httpx2.post(tools, json=HELLO, headers={**ACCEPT, **foreign}, trust_env=False)
        assert refused.status_code == 403
        assert set(refused.json()["error"]) == {"type", "message", "request_id"}


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_deep_request_to_the_tools_gets_a_4xx(tools: str, depth: int) -> None:
    body = json.dumps(rpc("tools/list")).replace("{}", '{"x":' + "[" * depth + "]" * depth + "}").encode()
    answer = httpx2.post(
        tools, content=body, headers={**ACCEPT, "Content-Type": "application/json"}, trust_env=False, timeout=20
    )
    assert 400 <= answer.status_code < 500 or (depth == 900 and answer.status_code == 200), answer.text


def test_a_body_in_chunks_to_the_tools_is_bounded(tools: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"x" * 1_000_000 for _ in range(6))

    headers = {**ACCEPT, "Content-Type": "application/json"}
    with contextlib.suppress(httpx2.TransportError):
        answer = httpx2.post(tools, content=chunks(), headers=headers, trust_env=False)
        assert answer.status_code == 413
    assert httpx2.post(tools, json=HELLO, headers=ACCEPT, trust_env=False).status_code == 200
