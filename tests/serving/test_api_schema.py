"""The OpenAPI document is correct: generated requests get no 5xx and no undocumented response."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from diptych.serving.api.app import make_app
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service
from tests.broken import make_image
from tests.servers import running

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("response_headers_conformance", "unsupported_method"),
)
RUN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An app over mini and an index of three pictures."""
    folder = tmp_path_factory.mktemp("schema")
    for seed in range(3):
        make_image(seed).save(folder / f"{seed}.png")
    service = Service("mini", index=folder / "index", roots=[folder], device="cpu")
    service.add(folder)
    service.warm()
    with running(make_app(service, Settings(hosts=("*",), max_rows=4))) as url:
        yield url


def test_schemathesis_finds_no_server_error_and_no_undocumented_response(url: str) -> None:
    limits = ["--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--request-timeout", "60"]
    words = ["run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--mode", "all", "--seed", "1", *limits]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words, "--no-color"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr
    assert "14 selected" in done.stdout or "14 total" in done.stdout, done.stdout[-2_000:]
