"""Hostile servers: endless or slow responses and redirects; a download is limited to its announced size."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from diptych.data import downloads
from diptych.data.downloads import RemoteFile, fetch, open_url, read_response
from diptych.errors import DataError


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b"x" * (1 << 16 if self.path == "/endless" else 1))
                time.sleep(0 if self.path == "/endless" else 0.02)
        except OSError:
            pass  # the client is gone

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    serving = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = Thread(target=serving.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_a_server_that_sends_too_slowly_is_abandoned(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_PERIOD", 0.2)
    file = RemoteFile(f"{server}/slow", "a.bin", 1 << 30, "sha256:0")
    with pytest.raises(DataError, match=r"/slow': the server sends less than 1,000 bytes per second"):
        fetch(file, tmp_path)


def test_an_endless_response_is_read_up_to_the_limit(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/endless' returned more than 100,000 bytes"):
        read_response(f"{server}/endless", 100_000)
    with pytest.raises(DataError, match="has the checksum"):
        fetch(RemoteFile(f"{server}/endless", "a.bin", 100_000, "sha256:0"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_to_another_scheme_is_refused(server: str, target: str) -> None:
    with pytest.raises((DataError, urllib.error.HTTPError)):
        open_url(f"{server}/to/{target}")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("https://1.1.1.1/x", "http://1.1.1.1/x", "which is not https"),
        ("https://1.1.1.1/x", "https://127.0.0.1/x", "in a private network"),
        ("http://1.1.1.1/x", "http://169.254.169.254/x", "in a private network"),
        ("http://1.1.1.1/x", "http://[::1]/x", "in a private network"),
        ("http://1.1.1.1/x", "http://10.0.0.1/x", "in a private network"),
    ],
)
def test_a_redirect_from_the_internet_into_a_private_network_is_refused(old: str, new: str, reason: str) -> None:
    request = urllib.request.Request(old)
    with pytest.raises(DataError, match=reason):
        downloads._Redirects().redirect_request(request, None, 302, "", {}, new)


def test_a_redirect_to_another_public_host_is_followed() -> None:
    request = urllib.request.Request("https://1.1.1.1/x")
    redirected = downloads._Redirects().redirect_request(request, None, 302, "", {}, "https://8.8.8.8/y")
    assert redirected is not None
    assert redirected.full_url == "https://8.8.8.8/y"
