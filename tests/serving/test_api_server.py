"""A server process: hostile uploads, overload, slow clients, and a graceful shutdown."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from diptych.cli import main
from diptych.serving.api.app import make_app
from diptych.serving.service import Service
from tests.broken import BROKEN, encoded
from tests.servers import free_port, running

QUEUE = 8
PICTURE = encoded("JPEG")


@contextmanager
def serving(*flags: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server process, ready to answer."""
    port = free_port()
    words = [sys.executable, "-m", "diptych", "serve", "--port", str(port), "--device", "cpu", *flags]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(words, stderr=log, stdout=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, folder / "server.log")
        yield url, process
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def wait_until_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    ended = time.monotonic() + 180
    while time.monotonic() < ended:
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen]]:
    folder = tmp_path_factory.mktemp("server")
    limits = (
        "--queue",
        str(QUEUE),
        "--per-client",
        str(QUEUE),
        "--max-body",
        "1000000",
        "--max-pixels",
        "1000000",
        "--body-seconds",
        "2",
    )
    with serving(*limits, "--root", str(folder), folder=folder) as served:
        yield served


# hostile uploads


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def _png(width: int, height: int, data: bytes = b"", *extra: bytes) -> bytes:
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(extra) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def hostile() -> list[tuple[str, bytes, str]]:
    """200 uploads that a server must refuse: (file name, bytes, media type)."""
    rng = random.Random(0)
    names = (
        "../../../etc/passwd",
        "..\\..\\x.jpg",
        "x\0.jpg",
        "a" * 300 + ".jpg",
        "",
        "x.jpg\r\nX-Evil: 1",
        "%2e%2e/x",
    )
    types = ("image/jpeg", "text/html", "application/x-python", "multipart/form-data", "image/svg+xml", "\x7f")
    bombs = [_png(side, side) for side in (1_001, 30_000, 2**31 - 1, 0)]
    bombs.append(_png(900, 900, zlib.compress(b"\0" * 10)))
    bombs.append(_png(10, 10, b"", _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 50_000_000))))
    jpeg, png, gif = (encoded(format) for format in ("JPEG", "PNG", "GIF"))
    polyglots = [b"GIF89a/*" + b"\xff" * 100 + b"*/=alert(1)", b"%PDF-1.4\n" + jpeg, b"PK\3\4" + png, b"\x7fELF" + gif]
    polyglots += [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"#!/bin/sh\nreboot",
    ]
    bodies = [data for data, _ in BROKEN.values() if data is not None] + bombs + polyglots
    bodies += [whole[: rng.randrange(1, len(whole) // 2)] for whole in (jpeg, png, gif) for _ in range(20)]
    bodies += [rng.randbytes(rng.randrange(1, 4_000)) for _ in range(20)]
    bodies += [whole[:4] + rng.randbytes(400) for whole in (jpeg, png, gif, b"RIFF", b"II*\0", b"BM") for _ in range(5)]
    uploads = [(rng.choice(names), body, rng.choice(types)) for body in bodies]
    while len(uploads) < 200:
        uploads.append((rng.choice(names), rng.choice(bodies), rng.choice(types)))
    return uploads[:200]


def test_200_hostile_uploads_get_only_4xx_and_the_server_lives(server: tuple[str, subprocess.Popen]) -> None:
    url, process = server
    before = psutil.Process(process.pid).memory_info().rss
    routes = ("/v1/embed", "/v1/search", "/v1/caption", "/v1/match", "/v1/prompt")
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        for number, (name, data, kind) in enumerate(hostile()):
            body, boundary = form(name, data, kind)
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            answer = client.post(routes[number % len(routes)], content=body, headers=headers)
            assert 400 <= answer.status_code < 500, (number, name, kind, data[:40], answer.text)
            assert answer.json()["error"]["request_id"]
        good = client.post("/v1/embed", files=[("images", PICTURE)])
    assert good.status_code == 200
    assert process.poll() is None
    assert psutil.Process(process.pid).memory_info().rss - before < 300e6


def form(name: str, data: bytes, kind: str) -> tuple[bytes, str]:
    """A multipart body made by hand, because clients refuse to send such names."""
    head = f'Content-Disposition: form-data; name="images"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
    return b"--edge\r\n" + head.encode("latin-1") + data + b"\r\n--edge--\r\n", "edge"


def raw(url: str, request: bytes, wait: float = 10.0) -> bytes:
    """The bytes received in response to these bytes."""
    host, port = url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        try:
            connection.sendall(request)
            while piece := connection.recv(65_536):
                received += piece
        except (ConnectionError, TimeoutError):
            pass
    return received


RAW = {
    "huge headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200 + b"\r\n\r\n",
    "two lengths": b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "a negative length": b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a long announced body": b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_malformed_http_is_refused_and_the_server_lives(server: tuple[str, subprocess.Popen], name: str) -> None:
    url, _ = server
    answer = raw(url, RAW[name], wait=2.0)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200


def test_a_body_that_trickles_in_gets_408(server: tuple[str, subprocess.Popen]) -> None:
    url, _ = server
    head = (
        b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    began = time.monotonic()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head)
        assert connection.recv(1_000).startswith(b"HTTP/1.1 408")
    assert 1.5 < time.monotonic() - began < 15


# load


def test_a_hundred_concurrent_clients_each_get_200_or_429(server: tuple[str, subprocess.Popen]) -> None:
    url, process = server

    large = PICTURE + bytes(500_000)  # bytes after the end of a JPEG are ignored

    async def ask(client: httpx2.AsyncClient) -> int:
        answer = await client.post("/v1/embed", files=[("images", large)])
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["type"] == "busy"
        return answer.status_code

    async def ask_all() -> list[int]:
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(ask(client) for _ in range(100)))

    codes = [code for _ in range(6) for code in asyncio.run(ask_all())]
    before = psutil.Process(process.pid).memory_info().rss  # torch keeps memory for each size of batch it has seen
    codes += [code for _ in range(5) for code in asyncio.run(ask_all())]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 11 * QUEUE
    assert psutil.Process(process.pid).memory_info().rss - before < 100e6  # of 250e6 that were sent
    assert httpx2.post(f"{url}/v1/embed", files=[("images", PICTURE)], trust_env=False).status_code == 200


# startup and shutdown


def test_serve_refuses_to_listen_on_a_network_without_a_key() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DIPTYCH_API_KEYS"}
    words = [sys.executable, "-m", "diptych", "serve", "--host", "0.0.0.0", "--port", str(free_port())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1
    assert "anyone on the network could use this server" in done.stderr


def test_a_port_in_use_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["serve", "--port", str(port)])
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_a_server_finishes_the_requests_in_flight_on_sigterm(server: tuple[str, subprocess.Popen]) -> None:
    url, process = server  # the last test that asks it

    async def ask_and_end() -> list[Any]:
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            files = [("images", PICTURE)] * 40
            tasks = [asyncio.create_task(client.post("/v1/embed", files=files)) for _ in range(4)]
            while "diptych_requests_open 4.0" not in (await client.get("/metrics")).text:
                assert not any(task.done() for task in tasks), "finished before SIGTERM; send more"
            process.send_signal(signal.SIGTERM)
            return list(await asyncio.gather(*tasks))

    answers = asyncio.run(ask_and_end())
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(len(answer.json()["image_embeddings"]) == 40 for answer in answers)
    assert process.wait(30) in (0, -signal.SIGTERM)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/healthz", trust_env=False)


def test_head_is_answered_as_get_without_a_body() -> None:
    with (
        running(make_app(Service(device="cpu"))) as url,
        httpx2.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        while client.get("/readyz").status_code != 200:
            time.sleep(0.05)
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/index", "/openapi.json"):
            get, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-type"] == get.headers["content-type"]
        assert client.head("/v1/index").headers["content-length"] == client.get("/v1/index").headers["content-length"]
        for path, status in (("/v1/images/x", 422), ("/none", 404), ("/v1/embed", 405)):
            refused = client.head(path)
            assert (refused.status_code, refused.content) == (status, b""), path
            assert refused.headers["x-request-id"]
        figures = client.get("/metrics").text
    assert 'diptych_requests_total{route="/healthz",status="200"} 2.0' in figures
    assert 'diptych_requests_total{route="/v1/index",status="200"} 4.0' in figures


def test_head_of_an_unready_server_is_503_and_needs_no_key(tmp_path: Path) -> None:
    with running(make_app(Service(tmp_path), keys=["a-key-of-the-tests-0123456789"])) as url:
        head = partial(httpx2.head, trust_env=False, timeout=60)
        assert head(f"{url}/readyz").status_code == 503
        assert head(f"{url}/healthz").status_code == 200
        assert head(f"{url}/v1/index").status_code == 401
