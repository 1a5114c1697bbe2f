"""The directory of an endpoint: its handler is started as an endpoint starts it, and answers requests."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, ImageError, ModelError
from diptych.export.endpoint import write_endpoint
from diptych.images.decode import decode
from diptych.models.checkpoints import BUNDLED
from diptych.serving.endpoint import Endpoint

# Does what Hugging Face's inference toolkit does: imports handler.py by its path, creates EndpointHandler(path) once,
# calls it with the JSON of each request, and answers 400 with the message of an exception.
SERVER = """
import http.server, importlib.util, io, json, sys
from PIL import Image
directory = sys.argv[1]
spec = importlib.util.spec_from_file_location("handler", directory + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(directory)

class Requests(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.headers["Content-Type"].startswith("image/"):
                data = {"inputs": Image.open(io.BytesIO(body))}
            else:
                data = json.loads(body)
            status, answer = 200, handler(data)
        except Exception as error:
            status, answer = 400, {"error": str(error)}
        answer = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass

server = http.server.HTTPServer(("127.0.0.1", 0), Requests)
print(server.server_port, flush=True)
server.serve_forever()
"""

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endpoint("mini", tmp_path_factory.mktemp("endpoint") / "out")


@pytest.fixture(scope="module")
def ask(directory: Path) -> Iterator[Ask]:
    """Send a request to a process that serves the directory; returns the status and the answer."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = int(process.stdout.readline())

    def send(body: Any, kind: str = "application/json") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", "/", data, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    yield send
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def image(scenes: Path) -> Path:
    return Path(str(read_pairs(scenes)[0].image))


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_the_directory_has_what_an_endpoint_expects(directory: Path) -> None:
    assert {entry.name for entry in directory.iterdir()} == {"handler.py", "requirements.txt", "README.md", "model"}
    assert (directory / "requirements.txt").read_text() == f"diptych[search]=={diptych.__version__}\n"
    card = (directory / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "## Limitations" in card  # the model's own card goes on below
    assert diptych.load(directory, "cpu").fingerprint() == diptych.load("mini", "cpu").fingerprint()


def test_texts_and_images_are_embedded(ask: Ask, image: Path) -> None:
    status, vectors = ask({"inputs": ["a dog", "a cat"]})
    model = diptych.load("mini", "cpu")
    assert status == 200
    np.testing.assert_allclose(vectors, model.encode_texts(["a dog", "a cat"]), atol=1e-5)
    status, both = ask({"inputs": {"texts": ["a dog"], "images": [encoded(image)]}})
    assert status == 200
    np.testing.assert_allclose(both["images"], model.encode_images([decode(image)]), atol=1e-5)
    assert len(both["texts"]) == 1


def test_an_image_is_classified_in_the_format_of_transformers(ask: Ask, image: Path) -> None:
    labels = ["a circle", "a square", "a tree"]
    url = f"data:image/jpeg;base64,{encoded(image)}"
    status, answer = ask({"inputs": url, "parameters": {"candidate_labels": labels}})
    assert status == 200
    assert sorted(label["label"] for label in answer) == labels
    scores = [label["score"] for label in answer]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'no "inputs"'),
        ({"inputs": "a dog", "parameters": {"task": "classfy"}}, "did you mean 'classify'"),
        ({"inputs": ["a dog"] * 65}, "the limit is 64"),
        ({"inputs": ["a dog", " "]}, "must be strings that are not empty"),
        ({"inputs": "not base64!", "parameters": {"candidate_labels": ["a"]}}, "base64"),
        ({"inputs": "AAAA", "parameters": {"candidate_labels": ["a"]}}, "decode"),
        (
            {"inputs": "AAAA", "parameters": {"candidate_labels": ["a"], "top_k": 3}},
            "unexpected keyword argument 'top_k'",
        ),
        ({"inputs": "AAAA", "parameters": {"task": "caption", "beams": 10**9}}, "from 1 to 16"),
        ({"inputs": "a dog", "parameters": [1]}, "must be an object"),
    ],
)
def test_an_invalid_request_gets_an_error_and_the_endpoint_goes_on(ask: Ask, body: Any, message: str) -> None:
    status, answer = ask(body)
    assert status == 400
    assert message in answer["error"]
    assert ask({"inputs": "a dog"})[0] == 200


def own(kind: str) -> bool:
    return bool(json.loads((BUNDLED / "mini" / "diptych.json").read_text()).get(kind))


def test_a_request_whose_body_is_an_image_is_captioned(ask: Ask, image: Path) -> None:
    status, answer = ask(image.read_bytes(), "image/jpeg")
    assert ask({"inputs": f"data:image/jpeg;base64,{encoded(image)}"}) == (status, answer)
    if own("captioner"):
        assert status == 200
        assert answer[0]["generated_text"].strip()
        return
    assert status == 400
    assert "no captioner" in answer["error"]


def test_an_image_and_texts_are_matched(ask: Ask, image: Path) -> None:
    status, answer = ask({"inputs": encoded(image), "parameters": {"texts": ["a red circle", "a horse"]}})
    if own("matcher"):
        assert status == 200
        assert [match["text"] for match in answer] == ["a red circle", "a horse"]
        assert all(0 <= match["probability"] <= 1 for match in answer)
        return
    assert status == 400
    assert "no matcher" in answer["error"]


def test_an_image_decoded_by_the_endpoint_is_rotated_upright(directory: Path, image: Path) -> None:
    with Image.open(image) as opened:
        exif = opened.getexif()
        exif[0x0112] = 6  # the camera lay on its side
        opened.save(directory.parent / "turned.jpg", exif=exif, quality=95)
    endpoint = Endpoint(directory)
    with Image.open(directory.parent / "turned.jpg") as turned:
        embeddings = endpoint({"inputs": turned, "parameters": {"task": "embed"}})
    expected = endpoint.service.encoder.encode_images([decode(directory.parent / "turned.jpg")])
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)


def test_one_command_writes_it_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "endpoint", "mini", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    with pytest.raises(ConfigError, match="exists already"):
        write_endpoint("mini", tmp_path / "out")
    with pytest.raises(ModelError):
        write_endpoint(tmp_path / "nothing", tmp_path / "other")


def test_a_broken_image_raises_an_image_error(directory: Path) -> None:
    with pytest.raises(ImageError):
        Endpoint(directory)({"inputs": b"GIF89a", "parameters": {"candidate_labels": ["a"]}})
