"""What widely used clients send to /v1/embeddings, as their sources and issues show it.

openai (Python and Node) asks for base64 by default, LiteLLM sends `null` for what is not set, LlamaIndex sends
`dimensions` and `user`, LangChain sends token ids by default, and `extra_body` adds fields of other servers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from diptych.serving.api.app import make_app
from diptych.serving.api.responses import OpenAIEmbeddingsResponse
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service

NULLS = {"encoding_format": None, "dimensions": None, "user": None, "model": None}


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(device="cpu")


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service, Settings(max_rows=4)), base_url="http://localhost:8000") as client:
        yield client


ACCEPTED: dict[str, dict[str, Any]] = {
    "curl": {"input": "a cat"},
    "openai for Python": {"input": ["a cat"], "model": "mini", "encoding_format": "base64"},
    "openai with extra_body": {"input": "a cat", "model": "mini", "encoding_format": "float", "truncate": True},
    "openai with a user and dimensions": {"input": ["a cat"], "model": "mini", "user": "ada", "dimensions": 256},
    "LiteLLM": {"input": ["a cat"], **NULLS},
    "LiteLLM for another provider": {"input": ["a cat"], "model": "mini", "input_type": "query", "timeout": 600},
    "LlamaIndex": {"input": ["a cat"], "model": "mini", "encoding_format": None, "dimensions": 256},
    "LangChain without check_embedding_ctx_length": {"input": ["a cat"], "model": "mini", "encoding_format": "base64"},
    "vLLM's fields": {"input": "a cat", "priority": 0, "add_special_tokens": True, "truncate_prompt_tokens": None},
    "a nested unknown field": {"input": "a cat", "metadata": {"tags": ["a"], "of": {"input": [1]}}},
}


@pytest.mark.parametrize("client", ACCEPTED)
def test_the_request_of_a_client_gets_the_embedding(api: TestClient, service: Service, client: str) -> None:
    body = ACCEPTED[client]
    response = api.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    TypeAdapter(OpenAIEmbeddingsResponse).validate_json(response.content, strict=True, extra="forbid")
    embedding = response.json()["data"][0]["embedding"]
    if body.get("encoding_format") == "base64":
        embedding = np.frombuffer(base64.b64decode(embedding), "<f4")
    assert np.allclose(embedding, service.embed(texts="a cat").text_embeddings[0], atol=1e-4)


TOKENS: dict[str, Any] = {
    "a list of ids": [57668, 53901],
    "LangChain": [[57668, 53901], [1]],
    "mixed": ["a cat", [1, 2]],
}


@pytest.mark.parametrize("case", TOKENS)
def test_token_ids_are_refused_with_the_option_that_sends_text(api: TestClient, case: str) -> None:
    response = api.post("/v1/embeddings", json={"input": TOKENS[case], "model": "mini", "encoding_format": "base64"})
    assert response.status_code == 422
    message = response.json()["error"]["message"]
    assert message.startswith("input: token ids are not accepted")
    assert "check_embedding_ctx_length=False" in message


REFUSED: dict[str, tuple[Any, str]] = {
    "no input": ({}, "input is missing"),
    "null": ({"input": None}, "input: send a string, "),
    "a number": ({"input": 1.5}, "input: send a string, "),
    "an empty text": ({"input": ["a", ""]}, "text 1 is empty; describe the image in words"),
    "an empty list": ({"input": []}, "input has no items; send at least one"),
    "an item that is none": ({"input": ["a", {"text": "a", "image": "b"}]}, 'an input is a string, {"text": ...} or'),
    "an object of OpenAI's chat": (
        {"input": [{"type": "text", "text": "a"}]},
        "input.0.type is not a field of this request",
    ),
    "another format": ({"input": "a", "encoding_format": "int8"}, "encoding_format must be 'float' or 'base64'"),
    "other dimensions": ({"input": "a", "dimensions": 7}, "dimensions is 7; embeddings of this model have 256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_in_a_sentence(api: TestClient, case: str) -> None:
    body, message = REFUSED[case]
    response = api.post("/v1/embeddings", json=body)
    assert response.status_code in (413, 422)
    assert message in response.json()["error"]["message"]


def test_as_many_texts_as_clients_send_at_once_are_embedded_in_order(api: TestClient, service: Service) -> None:
    texts = [f"{number} cats" for number in range(1_000)]  # LangChain's chunk_size; LlamaIndex sends 100
    response = api.post("/v1/embeddings", json={"input": texts, "model": "mini"})
    assert response.status_code == 200, response.text
    rows = response.json()["data"]
    assert [row["index"] for row in rows] == list(range(1_000))
    some = [0, 3, 4, 500, 999]
    expected = service.embed(texts=[texts[number] for number in some]).text_embeddings
    assert np.allclose([rows[number]["embedding"] for number in some], expected, atol=1e-4)


def test_more_texts_than_openai_accepts_and_more_images_than_the_server_are_refused(api: TestClient) -> None:
    def message(items: list[object]) -> str:
        response = api.post("/v1/embeddings", json={"input": items})
        assert response.status_code == 413
        return response.json()["error"]["message"]

    assert message(["a"] * 2_049) == "input has 2,049 texts, the limit is 2,048; send fewer at once"
    assert message([{"image": "AA=="}] * 5) == "input has 5 images, the limit is 4; send fewer at once"
