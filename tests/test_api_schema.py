"""The OpenAPI document holds: schemathesis makes requests from it and finds no 5xx and no undocumented answer."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode, checks
from schemathesis.schemas import BaseSchema

from diptych.api.app import make_app
from diptych.api.settings import Settings
from diptych.service import Service
from tests.broken import picture

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    """Of an app over mini and an index of three pictures."""
    folder = tmp_path_factory.mktemp("schema")
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    service = Service("mini", index=folder / "index", roots=[folder], device="cpu")
    service.add(folder)
    app = make_app(service, Settings(hosts=("*",), max_rows=4))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_the_document_says(document: BaseSchema, mode: GenerationMode) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 14
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case: Case) -> None:
            case.call_and_validate(checks=CHECKS)

        ask()
