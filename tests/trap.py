"""A trap for texts: an image behind a private server, in a file and in a `data:` URL, each of which is only a text."""

from __future__ import annotations

import base64
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_traps: list[Trap] = []


@dataclass
class Trap:
    """`url`, `path` and `data` lead to `image`; `touched` lists the requests for it and the openings of its file."""

    url: str
    path: Path
    data: str
    image: Image.Image
    touched: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Each of the three, and ordinary words."""
        return [self.url, str(self.path), self.data, "a red circle"]

    def check(self, vectors: np.ndarray, expected: np.ndarray, seen: np.ndarray, atol: float = 1e-5) -> None:
        """The vectors are those of the strings as texts, not that of the image; nothing was fetched or opened."""
        assert self.touched == []
        np.testing.assert_allclose(vectors, expected, atol=atol)
        assert (np.asarray(vectors) @ np.asarray(seen).ravel() < 0.999).all()


@contextmanager
def trap(folder: Path) -> Iterator[Trap]:
    """A trap whose file lies in `folder`, with its server on this machine."""
    pixels = np.random.default_rng(7).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.save(file, "PNG")
    path = folder / "private.png"
    path.write_bytes(file.getvalue())
    encoded = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            set_trap.touched.append(f"GET {self.path}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(file.getvalue())))
            self.end_headers()
            self.wfile.write(file.getvalue())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    set_trap = Trap(f"http://127.0.0.1:{server.server_port}/private.png", path, encoded, image)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _traps.append(set_trap)
    try:
        yield set_trap
    finally:
        _traps.remove(set_trap)
        server.shutdown()
        server.server_close()


def _openings(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _traps:
        for each in _traps:
            if str(arguments[0]) == str(each.path):
                each.touched.append(f"open {each.path}")


sys.addaudithook(_openings)
