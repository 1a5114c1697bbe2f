"""Idle connections are closed, and requests get through among many of them."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx2

from tests.servers import running

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def respond(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI: `ok`, ten megabytes at `/long`, and after a second at `/slow`."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = b"x" * 10_000_000 if scope["path"] == "/long" else b"ok"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def connected(url: str, data: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket, data: bytes = b"", seconds: float = 5.0) -> bool:
    """Whether the server closes a connection within some seconds while `data` is sent repeatedly."""
    connection.settimeout(0.1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connection.sendall(data)
            if not connection.recv(1_000_000):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_idle_connection_and_an_endless_request_head_are_closed() -> None:
    with (
        running(respond, idle_seconds=0.5) as url,
        connected(url) as idle,
        connected(url, b"GET / HTTP/1.1\r\n") as slow,
    ):
        assert is_closed(slow, b"X: a\r\n")
        assert is_closed(idle)


def test_an_incomplete_second_request_is_closed() -> None:
    with running(respond, idle_seconds=0.5) as url, connected(url, REQUEST) as connection:
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert is_closed(connection, b"G")


def test_a_connection_that_does_not_read_its_response_is_closed() -> None:
    with running(respond, idle_seconds=0.5) as url, connected(url, REQUEST.replace(b"/ ", b"/long ") * 2) as connection:
        time.sleep(2)
        read = 0
        while piece := _received(connection):
            read += len(piece)
        assert read < 10_000_000


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1_000_000)
    except ConnectionError:
        return b""


def test_the_time_to_compute_a_response_is_not_idle_time() -> None:
    with running(respond, idle_seconds=0.3) as url:
        assert httpx2.get(f"{url}/slow", trust_env=False).text == "ok"


def test_a_request_gets_through_among_many_idle_connections() -> None:
    with running(respond, max_connections=3, idle_seconds=60) as url, ExitStack() as stack:
        idle = [stack.enter_context(connected(url)) for _ in range(8)]
        assert httpx2.get(url, trust_env=False).text == "ok"
        assert all(is_closed(connection) for connection in idle[:5])
        assert not is_closed(idle[-1], seconds=0.3)


def test_a_new_connection_gets_503_when_all_others_have_a_request_in_flight() -> None:
    with running(respond, max_connections=2, idle_seconds=60) as url, ExitStack() as stack:
        slow = REQUEST.replace(b"/ ", b"/slow ")
        pending = [stack.enter_context(connected(url, slow)) for _ in range(2)]
        time.sleep(0.3)
        refused = stack.enter_context(connected(url))
        head, _, body = refused.recv(10_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1" in head
        error = json.loads(body)["error"]
        assert error["type"] == "busy"
        assert error["request_id"].encode() in head
        assert all(connection.recv(1_000).startswith(b"HTTP/1.1 200") for connection in pending)
