"""Hostile clients of the HTTP API: bodies, capacity, connections, hosts, keys, and the addresses images come from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from diptych.cli import main
from diptych.serving.api import limits, url_fetch
from diptych.serving.api.access import AccessControl
from diptych.serving.api.app import make_app
from diptych.serving.api.batching import Batcher
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import CapacityLimiter, RequestLimits
from diptych.serving.api.middleware import ErrorMiddleware
from diptych.serving.api.prometheus import ServerMetrics
from diptych.serving.api.request_body import _decode_base64
from diptych.serving.api.settings import Settings
from tests.servers import free_port, running
from tests.serving.test_api_parts import Pages, own_machine, pages

KEY = "a-key-of-the-tests-0123456789"
JSON = b"Content-Type: application/json\r\n"


class Stub:
    """A service without models, whose `add` takes 30 seconds."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        pass

    def warm(self) -> None:
        pass

    def add(self, path: str, *, progress: Any, **settings: Any) -> Any:
        for _ in progress(range(600), 600, "adding"):
            time.sleep(0.05)
        raise AssertionError("the add was not stopped")


async def respond(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI: reads the body and responds `ok`, at `/slow` after two seconds."""
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/slow":
        await asyncio.sleep(2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def protected(app: Any, *keys: str, queue: int = 8, **limits: Any) -> Any:
    settings = Settings(queue=queue, **limits)
    requests, memory = CapacityLimiter(queue, "requests"), CapacityLimiter(settings.memory, "bytes")
    return ErrorMiddleware(
        AccessControl(RequestLimits(app, settings, requests, memory), settings, keys), ServerMetrics()
    )


def connected(url: str, data: bytes, source: str = "127.0.0.1") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))
    connection.sendall(data)
    return connection


def head(path: str = "/", method: str = "POST", more: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + more + b"\r\n"


def exchange(url: str, request: bytes) -> tuple[bytes, bytes]:
    received = b""
    with connected(url, request) as connection, contextlib.suppress(ConnectionError):
        while not received.endswith(b"}}") and (piece := connection.recv(100_000)):
            received += piece
    status, _, body = received.partition(b"\r\n\r\n")
    return status, body


def skip_without_second_address() -> None:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return
    pytest.skip("127.0.0.2 is not an address of this machine")


# clients that disconnect


class Work:
    """Decodes and computes slowly, and records the items of both steps."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.decoded, self.worked = seconds, list[Any](), list[Any]()

    def prepare(self, item: Any) -> Any:
        self.decoded.append(item)
        time.sleep(self.seconds)
        return item

    def work(self, items: list[Any]) -> list[Any]:
        self.worked += items
        time.sleep(self.seconds)
        return items

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        """A server that processes as many inputs as the path of a POST names."""
        batchers: list[Batcher] = []

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            if not batchers:
                batchers.append(Batcher(self.work, prepare=self.prepare, pool=pool, max_items=4))
            await receive()
            await batchers[0].submit([scope["path"]] * int(scope["path"].rpartition("/")[2]))
            await respond({**scope, "method": "GET"}, receive, send)

        with ThreadPoolExecutor(2) as pool, running(protected(app)) as url:
            yield url


def test_images_of_a_disconnected_client_are_not_decoded_and_delay_nobody() -> None:
    work = Work(0.1)
    with work.served() as url:
        for _ in range(2):
            connected(url, head("/hostile/60", more=b"Content-Length: 1\r\n") + b"x").close()
        time.sleep(0.3)
        began = time.monotonic()
        with connected(url, head("/ordinary/1", more=b"Content-Length: 1\r\n") + b"x") as ordinary:
            assert ordinary.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 2  # all of the hostile ones take 6 s
        assert work.decoded.count("/hostile/60") < 20
        assert work.worked == ["/ordinary/1"]


def test_a_queued_request_is_dropped_when_its_client_disconnects() -> None:
    work = Work(0.4)
    with work.served() as url:
        first = connected(url, head("/first/1", more=b"Content-Length: 1\r\n") + b"x")
        time.sleep(0.55)  # it is in the model now
        connected(url, head("/second/1", more=b"Content-Length: 1\r\n") + b"x").close()
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        with connected(url, head("/third/1", more=b"Content-Length: 1\r\n") + b"x") as third:
            assert third.recv(100).startswith(b"HTTP/1.1 200")
        assert work.worked == ["/first/1", "/third/1"]


def test_two_requests_with_many_images_let_a_small_one_through() -> None:
    work = Work(0.05)
    with work.served() as url:
        hostile = [connected(url, head("/hostile/60", more=b"Content-Length: 1\r\n") + b"x") for _ in range(2)]
        time.sleep(0.2)
        with connected(url, head("/ordinary/1", more=b"Content-Length: 1\r\n") + b"x") as ordinary:
            assert ordinary.recv(100).startswith(b"HTTP/1.1 200")
        assert len(work.decoded) < 60  # half of what the two sent
        for connection in hostile:
            connection.close()


# bodies


def test_content_length_with_chunked_encoding_is_refused_before_the_body_is_read() -> None:
    with running(protected(respond)) as url:
        both = head(more=b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\n\r\n"
        status, body = exchange(url, both)
    assert status.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["type"] == "ambiguous_length"


def test_a_body_in_chunks_counts_as_many_bytes_as_arrive() -> None:
    with running(protected(respond, max_bytes=50_000)) as url:
        chunks = b"".join(b"2710\r\n" + b"x" * 10_000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
        status, body = exchange(url, head(more=b"Transfer-Encoding: chunked\r\n") + chunks)
    assert status.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["error"]["type"] == "too_large"


def test_base64_with_spaces_is_refused_without_a_copy_in_memory() -> None:
    text = "AAAA " * 400_000
    tracemalloc.start()
    try:
        with pytest.raises(RequestRefused, match="base64"):
            _decode_base64(text)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


def test_base64_may_contain_line_breaks() -> None:
    assert _decode_base64("aGVs\r\nbG8=\n") == b"hello"
    assert _decode_base64("data:image/png;base64,aGVsbG8=") == b"hello"


@pytest.mark.parametrize("text", ["aGVsbG8", "aGVs*bG8=", "aGVsbG8=aGVs", "a" * 5, "\N{SNOWMAN}", "aGVs bG8="])
def test_invalid_base64_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="base64"):
        _decode_base64(text)


NESTED = {depth: b'{"texts":' + b"[" * depth + b"]" * depth + b"}" for depth in (900, 100_000)}
BODIES: dict[str, tuple[str, bytes]] = {
    "a tiny temperature": ("caption", b'{"images": [], "temperature": 1e-300}'),
    "nested 900 deep": ("embed", NESTED[900]),
    "nested 100,000 deep": ("embed", NESTED[100_000]),
    "input nested 900 deep": ("embeddings", NESTED[900].replace(b"texts", b"input")),
    "a folder with NUL": ("search", b'{"texts": ["a"], "folder": "/a\\u0000b"}'),
    "the folder of a user who is not there": ("search", b'{"texts": ["a"], "folder": "~nosuchuser/x"}'),
    "a long name of a folder": ("search", b'{"texts": ["a"], "folder": "/' + b"x" * 3_000 + b'"}'),
    "half a character in a folder": ("search", b'{"texts": ["a"], "folder": "/\\ud800"}'),
    "a path with NUL": ("index/add", b'{"path": "/a\\u0000b"}'),
    "the path of a user who is not there": ("index/add", b'{"path": "~nosuchuser"}'),
    "not UTF-8": ("embed", b'{"texts": ["\xff"]}'),
    "a great number": ("search", b'{"texts": ["a"], "k": 1' + b"0" * 5_000 + b"}"),
    "many keys": ("embed", b"{" + b",".join(b'"%d": 1' % key for key in range(5_000)) + b"}"),
    "many values": ("embed", b'{"texts": [' + b"," * 500_000 + b"]}"),
    "half of it": ("match", b'{"images": ["'),
    "nothing": ("prompt", b""),
}


@pytest.fixture(scope="module")
def stubbed() -> Iterator[TestClient]:
    app = make_app(Stub(), Settings())  # type: ignore[arg-type]
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("name", BODIES)
def test_an_unusual_body_gets_a_4xx_in_the_error_shape(stubbed: TestClient, name: str) -> None:
    route, body = BODIES[name]
    answer = stubbed.post(f"/v1/{route}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"type", "message", "request_id"}
    assert len(answer.content) < 5_000


def test_a_compressed_body_is_refused(stubbed: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert stubbed.post("/v1/embed", content=b"\x1f\x8b", headers=headers).status_code == 415


def test_invalid_http_gets_a_400_in_the_error_shape() -> None:
    with running(protected(respond)) as url:
        status, body = exchange(url, b"\x16\x03\x01\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["type"] == "invalid_http"


def test_long_headers_and_urls_are_refused_in_the_error_shape() -> None:
    with running(protected(respond)) as url:
        for request in (head("/", "GET", b"X: " + b"a" * 40_000 + b"\r\n"), head("/?" + "a" * 40_000, "GET")):
            status, body = exchange(url, request)
            assert status[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")  # 400 where they do not come at once
            assert set(json.loads(body)["error"]) == {"type", "message", "request_id"}


# limits for each client


def test_bodies_that_never_arrive_from_one_client_leave_capacity_for_another() -> None:
    skip_without_second_address()
    with running(protected(respond)) as url, contextlib.ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(connected(url, head(more=b"Content-Length: 9\r\n"), "127.0.0.2"))
        time.sleep(0.3)
        assert httpx2.post(url, content=b"x", trust_env=False).status_code == 200


def test_a_stalled_body_gets_408_long_before_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.3)
    with running(protected(respond, body_seconds=60)) as url:
        began = time.monotonic()
        with connected(url, head(more=b"Content-Length: 90000\r\n") + b"x") as connection:
            connection.settimeout(5)
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 4


def test_slow_requests_of_one_client_leave_connections_for_another() -> None:
    skip_without_second_address()
    with running(respond, max_connections=8) as url, contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(url, head("/slow", "GET"), "127.0.0.2"))
        time.sleep(0.3)
        assert httpx2.get(url, trust_env=False).status_code == 200


def test_a_client_is_an_ipv4_address_or_an_ipv6_network() -> None:
    from diptych.serving.api.limits import network_of

    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9%eth0")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:8.8.8.8") == network_of("8.8.8.8") != network_of("8.8.4.4")


# hosts and keys


def status_of(app: Any, client: str = "8.8.8.8", server: str = "192.168.1.7", **headers: str) -> int:
    """The status of a GET request to an ASGI app."""
    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict[str, Any]:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    named = {"host": "192.168.1.7:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "method": "GET", "path": "/", "client": (client, 1), "server": (server, 8000)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in named.items()]
    asyncio.run(app(scope, receive, send))
    return statuses[0]


def app_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """The app that `diptych serve` would run."""
    apps: list[Any] = []
    monkeypatch.setattr("diptych.serving.api.server.run", lambda app, **settings: apps.append(app))
    monkeypatch.setattr("diptych.serving.service.Service", Stub)
    monkeypatch.delenv("DIPTYCH_API_KEYS", raising=False)
    with contextlib.suppress(SystemExit):
        main(["serve", *words])
    return apps[0]


def test_without_keys_a_rebound_host_is_refused_with_a_hint_how_to_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_of(monkeypatch, "--host", "0.0.0.0", "--without-key")
    with TestClient(app, base_url="http://localhost:8000") as client:
        refused = client.get("/v1/index", headers={"Host": "rebound.example:8000"})
        assert refused.status_code == 403
        assert "--allowed-hosts" in refused.json()["error"]["message"]
        assert client.get("/healthz").status_code == 200
    app = app_of(monkeypatch, "--host", "0.0.0.0", "--without-key", "--allowed-hosts", "photos.example")
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/healthz", headers={"Host": "Photos.example."}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("192.168.1.7:8000", 200), ("192.168.1.7", 200), ("localhost:8000", 200), ("192.168.1.8", 403)),
        *(("evil.example", 403), ("", 403), ("localhost@evil.example", 403), ("evil.example:x", 403)),
        *(("localhost:8000.evil.example", 403), ("[::1", 403), ("localhost/evil", 403)),
    ],
)
def test_a_server_accepts_only_its_own_hosts(host: str, status: int) -> None:
    assert status_of(protected(respond), host=host) == status


def test_wrong_keys_are_limited_per_address() -> None:
    app = protected(respond, KEY)
    wrong = [status_of(app, authorization=f"Bearer wrong-{number}") for number in range(14)]
    assert wrong == [401] * 10 + [429] * 4
    assert status_of(app, authorization=f"Bearer {KEY}") == 429  # guessing stops
    assert status_of(app, client="8.8.4.4", authorization=f"Bearer {KEY}") == 200


# images by URL

SPECIAL = (
    *("192.0.0.192", "168.63.129.16", "100.100.100.200", "192.88.99.1", "198.18.0.1", "240.0.0.1", "192.31.196.1"),
    *("fec0::1", "3fff::1", "2001::1", "2001:20::1", "2001:1ff:ffff::1", "2620:4f:8000::1", "5f00::1", "100::1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:a9fe:a9fe::1", "::ffff:168.63.129.16", "::8.8.8.8", "4000::1"),
    *("2606:4700:4700::1111%eth0", "not an address", ""),
)


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_purpose_address_is_not_public(address: str) -> None:
    assert not url_fetch.is_public(address)


@pytest.mark.parametrize("address", ["2002:808:808::1", "64:ff9b::808:808", "2a00:1450:4001::1", "198.17.255.255"])
def test_an_address_of_the_internet_stays_public(address: str) -> None:
    assert url_fetch.is_public(address)


def test_the_peer_address_is_checked_before_anything_is_sent() -> None:
    checked: list[str] = []

    def first_alone(address: str) -> bool:
        checked.append(address)
        return len(checked) == 1

    Pages.hosts.clear()
    with pages() as port, pytest.raises(RequestRefused) as refused:
        asyncio.run(url_fetch.fetch(f"http://127.0.0.1:{port}/ok", max_bytes=99, permitted=first_alone, ports=[port]))
    assert refused.value.status == 403
    assert checked == ["127.0.0.1", "127.0.0.1"]
    assert Pages.hosts == []


def test_only_the_permitted_ports_are_fetched_from() -> None:
    Pages.hosts.clear()
    with pages() as port, pytest.raises(RequestRefused, match=f"port {port}") as refused:
        asyncio.run(url_fetch.fetch(f"http://127.0.0.1:{port}/ok", max_bytes=99, permitted=own_machine))
    assert refused.value.status == 403
    assert Pages.hosts == []


# shutdown

SERVE = """
import diptych.serving.service
from tests.serving.test_security_api import Stub
diptych.serving.service.Service = Stub
from diptych.cli import main
main(["serve", "--port", "{port}", "--grace", "{grace}"])
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
def test_sigterm_stops_an_add_at_once_with_a_json_error() -> None:
    port, root = free_port(), Path(__file__).parents[2]
    code = SERVE.format(port=port, grace=4)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL)
    try:
        url, answers = f"http://127.0.0.1:{port}", list[Any]()
        _wait_until_ready(url)
        add = threading.Thread(
            target=lambda: answers.append(httpx2.post(f"{url}/v1/index/add", json={"path": "/x"}, timeout=60))
        )
        add.start()
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        add.join(30)
        assert time.monotonic() - began < 3.5
        assert answers[0].status_code == 503
        assert answers[0].json()["error"]["type"] == "ending"
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    pytest.fail("the server did not start")


def test_a_request_cut_off_by_the_shutdown_gets_a_json_error() -> None:
    bodies: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        bodies.append(message.get("body", message.get("status")))

    async def endless(*asgi: Any) -> None:
        await asyncio.Event().wait()

    async def cut_off() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(ErrorMiddleware(endless, ServerMetrics())(scope, endless, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cut_off())
    assert bodies[0] == 503
    assert json.loads(bodies[1])["error"]["type"] == "ending"
