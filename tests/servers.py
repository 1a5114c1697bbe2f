"""A service with every model over an index of photographs, and HTTP servers in threads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from diptych.data.samples.library import photographs
from diptych.serving.api.server import uvicorn_options
from diptych.serving.service import Service
from tests.page_models import mini_with_matcher, vit_gpt2


def whole_service(folder: Path) -> Service:
    """mini with a matcher and a tiny captioner, over an index of the sample photographs in `folder/photos`."""
    photographs(folder / "photos")
    models = {"matcher": mini_with_matcher(folder / "matcher"), "captioner": vit_gpt2(folder / "captioner")}
    service = Service("mini", **models, index=folder / "index", roots=[folder / "photos"], device="cpu")
    service.add(folder / "photos")
    return service


def photo(folder: Path, name: str) -> Path:
    """One of the sample photographs."""
    return next((folder / "photos").rglob(name))


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(app: Any, *, max_connections: int | None = None, idle_seconds: float | None = None) -> Iterator[str]:
    """The URL of an app that a thread serves with the connection limits of `diptych serve`."""
    port = free_port()
    options = uvicorn_options(max_connections=max_connections, idle_seconds=idle_seconds)
    server = uvicorn.Server(uvicorn.Config(app, port=port, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
