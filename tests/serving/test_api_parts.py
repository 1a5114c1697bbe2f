"""Parts of the API: batching, capacity limits, and images by URL."""

from __future__ import annotations

import asyncio
import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from diptych.serving.api import request_body
from diptych.serving.api.batching import Batcher
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import CapacityLimiter, RequestLimits
from diptych.serving.api.middleware import ErrorMiddleware
from diptych.serving.api.prometheus import ServerMetrics
from diptych.serving.api.requests import EmbedRequest, OpenAIEmbeddingsRequest, RemoveRequest
from diptych.serving.api.server import accepted_hosts
from diptych.serving.api.settings import Settings
from diptych.serving.api.url_fetch import fetch, is_public
from diptych.serving.validation_messages import describe

# batches


class Doubler:
    """Doubles numbers, records its batches, and fails on 13."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, list[list[int]]()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        time.sleep(self.seconds)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


def submit_all(
    work: Any, requests: Sequence[Sequence[int]], *, prepare: Any = lambda item: item, **limits: Any
) -> list[Any]:
    """The results of concurrent requests; exceptions are returned."""

    async def run() -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            batcher = Batcher(work, prepare=prepare, pool=pool, **limits)
            answers = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
            await batcher.close()
            return answers

    return asyncio.run(run())


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=12), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_each_request_gets_its_own_results_whatever_the_batches(requests: list[list[int]], max_items: int) -> None:
    work = Doubler()
    assert submit_all(work, requests, max_items=max_items) == [[2 * item for item in request] for request in requests]
    assert all(len(batch) <= max(max_items, *map(len, requests)) for batch in work.batches)
    assert sum(map(len, work.batches)) == sum(map(len, requests))


def test_requests_that_arrive_while_the_model_runs_share_a_batch() -> None:
    work = Doubler(seconds=0.05)
    submit_all(work, [[number] for number in range(12)], max_items=8, max_wait=0.0)
    assert len(work.batches) <= 4
    assert max(map(len, work.batches)) > 1


def test_a_batch_waits_for_inputs_being_prepared_at_most_max_wait() -> None:
    def slow(item: int) -> int:
        time.sleep(0.2 if item == 1 else 0.0)
        return item

    patient, hasty = Doubler(), Doubler()
    submit_all(patient, [[0], [1]], prepare=slow, max_wait=5.0)
    assert len(patient.batches) == 1
    submit_all(hasty, [[0], [1]], prepare=slow, max_wait=0.01)
    assert len(hasty.batches) == 2


def test_a_single_request_does_not_wait() -> None:
    began = time.perf_counter()
    assert submit_all(Doubler(), [[1]], max_wait=5.0) == [[2]]
    assert time.perf_counter() - began < 2


def test_one_requests_error_does_not_fail_the_others() -> None:
    good, bad, other = submit_all(Doubler(0.02), [[1], [13], [2]], max_wait=1.0)
    assert (good, other) == ([2], [4])
    assert isinstance(bad, ValueError)


def test_an_input_that_cannot_be_prepared_fails_only_its_own_request() -> None:
    def prepare(item: int) -> int:
        return 1 // item

    bad, good = submit_all(Doubler(), [[1, 0], [1]], prepare=prepare)
    assert isinstance(bad, ZeroDivisionError)
    assert good == [2]


# capacity and request bodies


def test_very_many_errors_of_a_request_are_not_listed_one_by_one() -> None:
    for model, list_ in (
        (EmbedRequest, b'{"texts":['),
        (OpenAIEmbeddingsRequest, b'{"input":['),
        (RemoveRequest, b'{"ids":['),
    ):
        with pytest.raises(ValidationError) as error:
            model.model_validate_json(list_ + b"1," * 5_000 + b"1]}")
        assert error.value.error_count() < 9
    with pytest.raises(ValidationError) as error:
        EmbedRequest.model_validate({str(number): 1 for number in range(5_000)})
    assert describe(error.value).startswith("the request has 5,000 errors")


def test_fetched_images_share_the_byte_limit_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[int] = []

    async def fetched(url: str, max_bytes: int, seconds: float, ports: Any, on_bytes: Any) -> bytes:
        allowed.append(max_bytes)
        on_bytes(8)
        return b"12345678"

    monkeypatch.setattr(request_body, "fetch", fetched)
    images = ["https://example.org/a", "aGVsbG8=", "HTTP://example.org/b", "https://example.org/c"]
    limiter = CapacityLimiter(30, "bytes")
    with limiter.reserve(5) as share:
        request = Request({"type": "http", "state": {"memory": share}})
        contents = asyncio.run(request_body.read_images(request, images, Settings(max_bytes=20, urls=True)))
        assert limiter.held == 5 + 3 * 8
    assert (contents, allowed) == ([b"12345678", b"hello", b"12345678", b"12345678"], [20, 12, 4])
    assert limiter.held == 0


def test_a_capacity_limiter_refuses_what_does_not_fit_and_is_free_again_afterwards() -> None:
    limiter = CapacityLimiter(3, "requests")
    with limiter.reserve(2):
        with pytest.raises(RequestRefused, match="2 requests in flight, the limit is 3") as refused, limiter.reserve(2):
            pass
        assert refused.value.status == 429
        with limiter.reserve():
            assert limiter.held == 3
    assert limiter.held == 0
    with limiter.reserve(9) as large:  # larger than the room, but alone
        large.extend(9)
        assert limiter.held == 18
    with limiter.reserve(1), limiter.reserve(1) as share:
        with pytest.raises(RequestRefused, match="the limit is 3"):
            share.extend(2)
        share.extend(1)
        assert limiter.held == 3
    assert limiter.held == 0


def test_a_request_reserves_memory_for_its_body_and_can_extend_it() -> None:
    requests, memory = CapacityLimiter(2, "requests"), CapacityLimiter(100, "bytes")
    seen: list[tuple[int, int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["memory"].extend(20)
        seen.append((requests.held, memory.held))

    async def unused(*message: Any) -> None:
        raise AssertionError("nothing is read or sent")

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"7")], "state": {}}
    asyncio.run(RequestLimits(app, Settings(), requests, memory)(scope, unused, unused))
    assert seen == [(1, 27)]
    assert (requests.held, memory.held) == (0, 0)


# images by URL

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:0a00:0001::", "192.0.2.1", "2001:db8::1"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_private_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


class Pages(http.server.BaseHTTPRequestHandler):
    """An image, a long one, and redirects; records the Host headers of requests."""

    hosts: list[str] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        port = self.server.server_address[1]
        where = {
            "/away": f"http://127.0.0.2:{port}/ok",
            "/near": "/ok",
            "/round": "/round",
            "/file": "file:///etc/passwd",
        }
        if self.path in where:
            self.send_response(302)
            self.send_header("Location", where[self.path])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(b"x" * (100_000 if self.path == "/long" else 10))

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def pages() -> Iterator[int]:
    """The port of a server of `Pages`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pages() as port:
        yield port


def get(url: str, permitted: Any = is_public) -> bytes:
    return asyncio.run(fetch(url, max_bytes=1_000, seconds=10, permitted=permitted, ports=range(65_536)))


def own_machine(address: str) -> bool:
    return address == "127.0.0.1"


def test_an_image_is_fetched_from_the_checked_address_with_the_host_of_its_url(port: int) -> None:
    Pages.hosts.clear()
    assert get(f"http://127.0.0.1:{port}/ok", own_machine) == b"x" * 10
    assert get(f"http://127.0.0.1:{port}/near", own_machine) == b"x" * 10
    name = "localhost"
    permitted = lambda address: address in ("127.0.0.1", "::1")  # noqa: E731
    try:
        get(f"http://{name}:{port}/ok", permitted)
    except RequestRefused:  # a machine whose localhost is ::1 first, where nobody listens
        pytest.skip("localhost is not 127.0.0.1 here")
    assert Pages.hosts == [*[f"127.0.0.1:{port}"] * 3, f"localhost:{port}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_refused_however_it_is_written(port: int, host: str) -> None:
    Pages.hosts.clear()
    with pytest.raises(RequestRefused):
        get(f"http://{host}:{port}/ok")
    assert Pages.hosts == []


def test_a_redirect_is_checked_like_the_first_address(port: int) -> None:
    Pages.hosts.clear()
    with pytest.raises(RequestRefused, match=r"127\.0\.0\.2") as refused:
        get(f"http://127.0.0.1:{port}/away", own_machine)
    assert refused.value.status == 403
    assert len(Pages.hosts) == 1


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/round", 422, "redirects more than 3 times"),
        ("/file", 422, "only http and https"),
        ("/missing", 422, "responded with status 404"),
        ("/long", 413, "more than 1,000 bytes"),
    ],
)
def test_failed_and_oversized_fetches_are_refused(port: int, path: str, status: int, why: str) -> None:
    with pytest.raises(RequestRefused, match=why) as refused:
        get(f"http://127.0.0.1:{port}{path}", own_machine)
    assert refused.value.status == status


def test_fetched_images_share_the_time_limit_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    async def fetched(url: str, max_bytes: int, seconds: float, ports: Any, on_bytes: Any) -> bytes:
        limits.append(seconds)
        await asyncio.sleep(min(0.2, seconds))
        return b""

    monkeypatch.setattr(request_body, "fetch", fetched)
    with CapacityLimiter(1, "bytes").reserve() as share:
        request = Request({"type": "http", "state": {"memory": share}})
        settings = Settings(body_seconds=0.5, urls=True)
        asyncio.run(request_body.read_images(request, ["http://example.org/"] * 5, settings))
    assert 0.4 < limits[0] <= 0.5
    assert limits[-1] == 0.0


def test_a_fetch_reserves_memory_before_it_keeps_bytes(port: int) -> None:
    limiter = CapacityLimiter(70_000, "bytes")

    async def fetched(share: Any) -> bytes:
        url = f"http://127.0.0.1:{port}/long"
        return await fetch(url, max_bytes=200_000, permitted=own_machine, ports=[port], on_bytes=share.extend)

    with limiter.reserve(1), limiter.reserve(1) as share:
        with pytest.raises(RequestRefused, match="the limit is 70,000"):
            asyncio.run(fetched(share))
        assert limiter.held <= 70_000
    with limiter.reserve(1) as only:
        assert len(asyncio.run(fetched(only))) == 100_000
    assert limiter.held == 0


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "http://", "http://a@b/", "http://[", "http://x:99999/", "http://no.invalid/"]
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        get(url)
    assert refused.value.status == 422


def test_a_client_disconnect_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    async def unused(*message: Any) -> None:
        raise AssertionError("nothing is read or sent")

    metrics = ServerMetrics()
    scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": []}
    with caplog.at_level("INFO", "diptych.serving.api"):
        asyncio.run(ErrorMiddleware(app, metrics)(scope, unused, unused))
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert b'status="500"' not in metrics.text()


def test_a_server_accepts_the_host_it_listens_on() -> None:
    assert set(accepted_hosts("127.0.0.2")) == {"localhost", "127.0.0.1", "::1", "127.0.0.2"}
    assert accepted_hosts("0.0.0.0", keys=["a-key-of-the-tests-0123456789"]) == ("*",)
    assert set(accepted_hosts("0.0.0.0", ["photos.example"])) == {"localhost", "127.0.0.1", "::1", "photos.example"}
