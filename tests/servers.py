"""A service with everything, and servers to ask: an app in a thread, on a port of this machine."""

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
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(app: Any, **limits: Any) -> Iterator[str]:
    """The URL of an app that a thread serves, as `diptych serve` does, while the context lasts."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, **uvicorn_options(**limits)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ended = time.monotonic() + 30
    while not server.started and time.monotonic() < ended:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
