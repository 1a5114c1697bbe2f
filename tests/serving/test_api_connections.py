"""Connections that say nothing, ask slowly, or do not read: each ends, and who asks at once comes through."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx2

from tests.servers import running

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def says_ok(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI: `ok`, ten megabytes at `/long`, and after a second at `/slow`."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = b"x" * 10_000_000 if scope["path"] == "/long" else b"ok"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def connected(url: str, said: bytes = b"") -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(said)
    return connection


def is_ended(connection: socket.socket, say: bytes = b"", seconds: float = 5.0) -> bool:
    """Whether the server closes it in time, though `say` comes to it all the while."""
    connection.settimeout(0.1)
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        try:
            connection.sendall(say)
            if not connection.recv(1_000_000):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_who_says_nothing_or_asks_without_end_is_closed() -> None:
    with (
        running(says_ok, idle_seconds=0.5) as url,
        connected(url) as silent,
        connected(url, b"GET / HTTP/1.1\r\n") as slow,
    ):
        assert is_ended(slow, b"X: a\r\n")
        assert is_ended(silent)


def test_a_second_request_that_never_ends_is_closed_too() -> None:
    with running(says_ok, idle_seconds=0.5) as url, connected(url, ASK) as connection:
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert is_ended(connection, b"G")


def test_who_does_not_read_an_answer_is_closed() -> None:
    with running(says_ok, idle_seconds=0.5) as url, connected(url, ASK.replace(b"/ ", b"/long ") * 2) as connection:
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


def test_the_time_that_the_server_takes_does_not_count() -> None:
    with running(says_ok, idle_seconds=0.3) as url:
        assert httpx2.get(f"{url}/slow", trust_env=False).text == "ok"


def test_who_asks_comes_through_where_many_say_nothing() -> None:
    with running(says_ok, max_connections=3, idle_seconds=60) as url, ExitStack() as many:
        silent = [many.enter_context(connected(url)) for _ in range(8)]
        assert httpx2.get(url, trust_env=False).text == "ok"
        assert all(is_ended(each) for each in silent[:5])
        assert not is_ended(silent[-1], seconds=0.3)


def test_where_every_connection_has_a_request_in_hand_a_new_one_is_told_to_come_back() -> None:
    with running(says_ok, max_connections=2, idle_seconds=60) as url, ExitStack() as many:
        slow = ASK.replace(b"/ ", b"/slow ")
        asked = [many.enter_context(connected(url, slow)) for _ in range(2)]
        time.sleep(0.3)
        refused = many.enter_context(connected(url))
        head, _, body = refused.recv(10_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1" in head
        error = json.loads(body)["error"]
        assert error["type"] == "busy"
        assert error["request_id"].encode() in head
        assert all(each.recv(1_000).startswith(b"HTTP/1.1 200") for each in asked)
