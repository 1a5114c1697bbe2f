"""The HTTP API: the same responses as the local service, one shape of error, and limits that hold."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from diptych.captioning.candidates import combined_score
from diptych.errors import ConfigError
from diptych.search.index import AddReport
from diptych.search.results import Hit
from diptych.serving.api.access import RateLimiter
from diptych.serving.api.app import make_app
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.operations import Operations
from diptych.serving.api.prometheus import ServerMetrics
from diptych.serving.api.responses import (
    AddResponse,
    CaptionResponse,
    EmbedResponse,
    MatchResponse,
    OpenAIEmbeddingsResponse,
    PromptResponse,
    RemoveResponse,
    SearchResponse,
)
from diptych.serving.api.server import accepted_hosts, check_exposure, is_loopback
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service
from tests.broken import BROKEN
from tests.servers import photo, running

RESPONSES: dict[str, type] = {
    "/v1/embed": EmbedResponse,
    "/v1/search": SearchResponse,
    "/v1/caption": CaptionResponse,
    "/v1/match": MatchResponse,
    "/v1/prompt": PromptResponse,
    "/v1/embeddings": OpenAIEmbeddingsResponse,
    "/v1/index/add": AddResponse,
    "/v1/index/remove": RemoveResponse,
}
KEY = "a-key-of-the-tests-0123456789"


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[TestClient]:
    with client_of(make_app(service, Settings(max_bytes=2_000_000, max_pixels=1_000_000, max_rows=4))) as client:
        yield client


@pytest.fixture(scope="module")
def cat(folder: Path) -> bytes:
    return photo(folder, "cat.png").read_bytes()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def post(api: TestClient, route: str, **body: Any) -> Any:
    response = api.post(route, json=body)
    assert response.status_code == 200, response.text
    TypeAdapter(RESPONSES[route]).validate_json(response.content, strict=True, extra="forbid")
    return response.json()


# results


def test_json_forms_and_data_urls_give_the_embeddings_of_the_service(api: TestClient, service: Service, cat) -> None:
    local = service.embed([cat], ["a cat"])
    as_json = post(
        api, "/v1/embed", images=[in_base64(cat), f"data:image/png;base64,{in_base64(cat)}"], texts=["a cat"]
    )
    as_form = api.post("/v1/embed", files=[("images", ("../../etc/passwd", cat))], data={"texts": ["a cat"]}).json()
    assert np.allclose(as_json["image_embeddings"], [local.image_embeddings[0]] * 2, atol=1e-4)
    assert np.allclose(as_form["image_embeddings"], local.image_embeddings, atol=1e-4)
    assert np.allclose(as_form["text_embeddings"], local.text_embeddings, atol=1e-4)
    assert (as_form["model"], as_form["dim"]) == ("mini", 256)


def test_a_search_finds_what_the_service_finds(api: TestClient, service: Service, cat: bytes) -> None:
    results = post(api, "/v1/search", texts=["a cat"], k=3, keep=None)
    assert [hit["id"] for hit in results["hits"]] == [hit.id for hit in service.search("a cat", k=3, keep=None)]
    by_picture = post(api, "/v1/search", images=[in_base64(cat)], min_side=100, since="2001-01-01")
    assert by_picture["hits"][0]["path"].endswith("cat.png")
    reranked = post(api, "/v1/search", texts=["a cat"], keep=None, rerank=2)
    assert reranked["hits"][0]["match"] > 0.5
    response = api.get(f"/v1/images/{results['hits'][0]['id']}", params={"size": 64})
    assert (response.headers["content-type"], response.content[:2]) == ("image/jpeg", b"\xff\xd8")


def test_every_field_of_a_response_is_present_in_a_fixed_order(api: TestClient, service: Service, cat: bytes) -> None:
    results = post(api, "/v1/search", texts=["a cat"], k=2, keep=None)
    local = service.search("a cat", k=2, keep=None)
    page = ["query", "message", "total", "more", "searched", "page", "cutoff", "hits", "nearest", "unknown", "before"]
    assert list(results) == page
    assert {name: results[name] for name in page if name not in ("hits", "nearest", "unknown")} == {
        name: getattr(local, name) for name in page if name not in ("hits", "nearest", "unknown")
    }
    for hit, expected in zip(results["hits"], local.hits, strict=True):
        assert list(hit) == [field.name for field in dataclasses.fields(Hit)]
        assert hit["copies"] == list(expected.copies)
        assert hit["changed"] == (expected.changed.isoformat() if expected.changed else None)
        assert hit["score"] == pytest.approx(expected.score, abs=1e-6)
    captioned = post(api, "/v1/caption", images=[in_base64(cat)])["captions"][0]
    assert list(captioned) == ["best", "confidence", "alternatives", "candidates"]
    assert list(captioned["alternatives"][0]) == ["text", "score", "confidence"]
    assert captioned["candidates"] == []
    assert list(api.get("/v1/index").json()) == ["index", "model", "images", "roots", "adding"]
    models = api.get("/v1/models").json()
    assert list(models["data"][0]) == ["id", "object", "kind", "name", "available", "loaded"]
    assert (models["object"], models["data"][0]["id"], models["data"][0]["object"]) == ("list", "mini", "model")
    assert api.get("/healthz").json() == {"status": "ok"}


def test_captions_matches_and_prompts_are_those_of_the_service(api: TestClient, service: Service, cat: bytes) -> None:
    captioned = post(api, "/v1/caption", images=[in_base64(cat)], count=2, candidates=["a cat", "a rocket"])["captions"]
    local = service.caption([cat], count=2, candidates=["a cat", "a rocket"])[0]
    assert [caption["text"] for caption in captioned[0]["alternatives"]] == [
        caption.text for caption in local.alternatives
    ]
    assert captioned[0]["confidence"] == pytest.approx(local.confidence, abs=1e-4)
    assert captioned[0]["candidates"][0]["text"] == "a cat"
    chosen = post(api, "/v1/caption", images=[in_base64(cat)], count=8, choose=True)["captions"][0]["alternatives"]
    assert chosen == sorted(chosen, key=lambda caption: -combined_score(caption["score"], caption["confidence"]))
    matched = post(api, "/v1/match", images=[in_base64(cat)] * 2, texts=["a cat", "a rocket"])["probabilities"]
    assert np.allclose(matched, [service.match(cat, ["a cat", "a rocket"])] * 2, atol=1e-4)
    assert matched[0][0] > matched[0][1]
    drawn = {"method": "nucleus", "count": 2, "seed": 3}
    captioned = post(api, "/v1/caption", images=[in_base64(cat)], **drawn)["captions"]
    assert captioned[0]["best"] == service.caption([cat], **drawn)[0].best


def test_images_are_added_and_removed_and_the_status_shows_it(api: TestClient, folder: Path) -> None:
    before = api.get("/v1/index").json()
    assert before["images"] == 15
    gone = post(api, "/v1/search", texts=["a rocket"], keep=None)["hits"][0]["id"]
    assert post(api, "/v1/index/remove", ids=[gone, "0" * 32]) == {"removed": 1}
    assert post(api, "/v1/index/add", path=str(folder / "photos"))["new"] == 1
    assert api.get("/v1/index").json() == before


def test_openais_embeddings_api_accepts_texts_and_images(api: TestClient, service: Service, cat: bytes) -> None:
    url = f"data:image/png;base64,{in_base64(cat)}"
    response = post(
        api, "/v1/embeddings", model="any", input=["a cat", url, {"image": in_base64(cat)}, {"text": "a cat"}]
    )
    assert [row["index"] for row in response["data"]] == [0, 1, 2, 3]
    local = service.embed([cat], ["a cat"])
    vectors = np.array([row["embedding"] for row in response["data"]])
    assert np.allclose(vectors[[0, 3]], local.text_embeddings, atol=1e-4)
    assert np.allclose(vectors[[1, 2]], local.image_embeddings, atol=1e-4)
    one = post(api, "/v1/embeddings", model="any", input="a cat", encoding_format="base64", dimensions=256)
    assert np.allclose(np.frombuffer(base64.b64decode(one["data"][0]["embedding"]), "<f4"), vectors[0], atol=1e-4)
    assert one["usage"]["prompt_tokens"] == one["usage"]["total_tokens"] > 0
    assert api.post("/v1/embeddings", json={"input": "a", "dimensions": 7}).status_code == 422


def test_the_docs_are_a_page_of_every_route_and_field_that_fetches_nothing(api: TestClient) -> None:
    response = api.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    page = response.text
    for path, operations in api.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            assert f"<code>{method.upper()} {path}</code></h2>" in page
            for body in operation.get("requestBody", {}).get("content", {}).values():
                assert all(f"<td><code>{name}</code></td>" in page for name in body["schema"]["properties"])
    assert "default-src 'none'" in page
    assert not re.search(r"<script|<link|src=|https?://", page)
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links <= set(re.findall(r'id="([^"]+)"', page))


# errors


def error_of(response: Any) -> tuple[int, str]:
    error = response.json()["error"]
    assert sorted(error) == ["message", "request_id", "type"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"]
    return response.status_code, error["type"]


INVALID_JSON: dict[str, tuple[str, Any, tuple[int, str]]] = {
    "no JSON": ("/v1/embed", b"{", (422, "invalid_request")),
    "a list": ("/v1/embed", [], (422, "invalid_request")),
    "nothing": ("/v1/embed", {}, (422, "invalid_request")),
    "an unknown name": ("/v1/embed", {"texts": ["a"], "image": "x"}, (422, "invalid_request")),
    "an empty text": ("/v1/embed", {"texts": [" "]}, (422, "invalid_request")),
    "a surrogate": ("/v1/embed", b'{"texts": ["\\ud800"]}', (422, "invalid_request")),
    "a deep nest": ("/v1/embed", b"[" * 100_000, (422, "invalid_request")),
    "a long text": ("/v1/embed", {"texts": ["a" * 2_001]}, (413, "too_large")),
    "too many rows": ("/v1/embed", {"texts": ["a"] * 5}, (413, "too_many_rows")),
    "no base64": ("/v1/embed", {"images": ["*"]}, (422, "invalid_request")),
    "a data URL without base64": ("/v1/embed", {"images": ["data:image/png,x"]}, (422, "invalid_request")),
    "a URL": ("/v1/embed", {"images": ["http://localhost/x.jpg"]}, (403, "urls_off")),
    "a path": ("/v1/index/add", {"path": "/etc"}, (422, "data_error")),
    "a path with NUL": ("/v1/index/add", {"path": "\0"}, (422, "invalid_request")),
    "an id that is none": ("/v1/search", {"like": ["x"]}, (422, "invalid_request")),
    "an unknown id": ("/v1/search", {"like": ["0" * 32]}, (422, "data_error")),
    "nothing wanted": ("/v1/search", {}, (400, "config_error")),
    "a long path": ("/v1/index/add", {"path": "a" * 5_000}, (422, "invalid_request")),
    "a long word": ("/v1/search", {"texts": ["a"], "camera": "a" * 1_001}, (422, "invalid_request")),
    "a great many values": ("/v1/embed", b'{"texts":[' + b"0," * 60_000, (413, "too_many_rows")),
    "a far page": ("/v1/search", {"texts": ["a"], "page": 5_000, "k": 200}, (400, "config_error")),
    "a day that no month has": ("/v1/search", {"texts": ["a"], "until": "2021-02-30"}, (422, "invalid_request")),
    "a date as a number": ("/v1/search", {"texts": ["a"], "since": 2021}, (422, "invalid_request")),
    "a date in words": ("/v1/search", {"texts": ["a"], "since": "yesterday"}, (422, "invalid_request")),
    "a prior": ("/v1/match", {"images": ["AAAA"], "texts": ["a"], "prior": 1}, (422, "invalid_request")),
    "no input": ("/v1/embeddings", {"input": []}, (422, "invalid_request")),
    "tokens": ("/v1/embeddings", {"input": [1, 2]}, (422, "invalid_request")),
    "a text and a picture": ("/v1/embeddings", {"input": [{"text": "a", "image": "b"}]}, (422, "invalid_request")),
}


@pytest.mark.parametrize(
    ("since", "until"), [("2001", None), ("0001-01-01", "9999-12-31"), ("0001-01-01T00:00:00+14:00", "9999")]
)
def test_every_day_of_the_calendar_can_be_filtered_by(api: TestClient, since: str, until: str | None) -> None:
    results = post(api, "/v1/search", texts=["a cat"], keep=None, since=since, until=until)
    assert results["searched"] == 15


def test_a_year_as_text_is_a_year_and_not_seconds_since_1970(api: TestClient) -> None:
    count = partial(post, api, "/v1/search", texts=["a cat"], keep=None)
    assert count(since="2100")["searched"] == count(until="1901")["searched"] == 0


SENTENCES: dict[str, tuple[str, Any, str]] = {
    "an unknown field": ("embed", {"text": "a"}, "text is not a field of this request; did you mean 'texts'? valid: "),
    "a number for a text": ("embed", {"texts": [1]}, "texts.0 must be a string"),
    "a text for a list": ("embed", {"texts": "a"}, "texts must be a list"),
    "an empty text": ("embed", {"texts": ["a", ""]}, "texts.1 is empty"),
    "a list for an object": ("embed", [], "the body must be an object"),
    "broken JSON": ("embed", b"{", "the body is not valid JSON ("),
    "an id": ("search", {"like": ["x"]}, "like.0 must be the id of an indexed image: 32 hexadecimal digits"),
    "k": ("search", {"texts": ["a"], "k": 0}, "k must be at least 1"),
    "too many": ("search", {"texts": ["a"], "k": 1_000}, "k must be at most 200"),
    "half a result": ("search", {"texts": ["a"], "k": 1.5}, "k must be a whole number"),
    "a share": ("search", {"texts": ["a"], "keep": "most"}, "keep must be a number"),
    "an order": ("search", {"texts": ["a"], "sort": "size"}, "sort must be 'score', 'newest' or 'oldest'"),
    "a switch": ("search", {"texts": ["a"], "fold": "perhaps"}, "fold must be true or false"),
    "a date": ("search", {"texts": ["a"], "since": "2021-02-30"}, "since: '2021-02-30' is not a date (day is out of"),
    "a date as a number": ("search", {"texts": ["a"], "until": 2021}, "until: a date as text is needed, such as 2021"),
    "words": ("search", {"texts": ["a"], "camera": "a" * 1_001}, "camera has more than 1,000 characters"),
    "a prior": ("match", {"images": ["AA=="], "texts": ["a"], "prior": 1}, "prior must be less than 1"),
    "no texts": ("match", {"images": ["AA=="], "texts": []}, "texts has no items; send at least one"),
    "nothing at all": ("match", {}, "images is missing; texts is missing"),
    "a path": ("index/add", {"path": "~/x"}, "path: home folders are not expanded; give the full path"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_an_invalid_field_is_described_in_a_plain_sentence(api: TestClient, case: str) -> None:
    route, content, sentence = SENTENCES[case]
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = api.post(f"/v1/{route}", content=data, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(sentence)


def test_an_invalid_parameter_of_a_path_or_query_is_described_in_a_plain_sentence(api: TestClient) -> None:
    def message(path: str) -> str:
        return api.get(path).json()["error"]["message"]

    assert message("/v1/images/x").startswith("id must be the id of an indexed image: 32 hexadecimal digits")
    assert message(f"/v1/images/{'0' * 32}?size=1") == "size must be at least 16"
    assert message(f"/v1/images/{'0' * 32}?size=wide") == "size must be a whole number"


@pytest.mark.parametrize("case", INVALID_JSON)
def test_an_invalid_request_gets_its_status_and_type(api: TestClient, case: str) -> None:
    path, content, expected = INVALID_JSON[case]
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert error_of(api.post(path, content=data, headers={"content-type": "application/json"})) == expected


@pytest.mark.parametrize("way", [way for way, (data, _) in BROKEN.items() if data is not None])
def test_a_broken_image_is_refused_with_its_reason_on_every_route(api: TestClient, way: str) -> None:
    data, reason = BROKEN[way]
    for path in ("/v1/embed", "/v1/search", "/v1/caption", "/v1/match", "/v1/prompt"):
        texts = {"texts": ["a"]} if path == "/v1/match" else {}
        response = api.post(path, files=[("images", ("x.jpg", data))], data=texts)
        assert error_of(response) == (422, f"image_{reason}"), path


def test_unknown_routes_methods_and_media_types_have_the_error_shape(api: TestClient) -> None:
    assert error_of(api.get("/nowhere")) == (404, "not_found")
    assert error_of(api.get("/v1/embed")) == (405, "method_not_allowed")
    assert error_of(api.post("/v1/embed", content=b"x")) == (415, "unsupported_type")
    assert error_of(api.post("/v1/embed", content=b"x", headers={"content-type": "multipart/form-data"}))[0] == 400
    assert error_of(api.get("/v1/images/x")) == (422, "invalid_request")
    twice = api.post("/v1/caption", files=[("images", b"x"), ("count", (None, "1")), ("count", (None, "2"))])
    assert error_of(twice) == (422, "invalid_request")
    assert error_of(api.post("/v1/embed", files=[("texts", b"a cat")])) == (422, "invalid_request")


def test_a_client_may_choose_its_request_id_and_an_invalid_one_is_replaced(api: TestClient) -> None:
    assert api.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert api.get("/healthz", headers={"X-Request-ID": "no good"}).headers["x-request-id"] != "no good"


def test_a_path_cannot_add_lines_to_the_log(api: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "diptych.serving.api"):
        api.get("/x%0a200 GET /of-my-own")
    assert [record.message.count("\n") for record in caplog.records if "of-my-own" in record.message] == [0]


def test_an_internal_error_is_logged_and_not_disclosed(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(service)

    @app.get("/fault")
    async def fault() -> None:
        raise RuntimeError("a secret")

    response = client_of(app).get("/fault")
    assert error_of(response) == (500, "internal_error")
    assert "a secret" not in response.text
    assert "a secret" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


# limits


def test_bytes_and_pixels_are_limited(api: TestClient, folder: Path) -> None:
    assert error_of(api.post("/v1/embed", files=[("images", b"x" * 3_000_000)])) == (413, "too_large")

    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 1_000_000] * 3

    kind = {"content-type": "application/json"}
    assert error_of(api.post("/v1/embed", content=pieces(), headers=kind)) == (413, "too_large")
    from tests.broken import make_image

    path = folder / "large.png"
    make_image(size=(1_100, 1_000)).save(path)
    response = api.post("/v1/embed", files=[("images", path.read_bytes())])
    assert error_of(response) == (422, "image_too_many_pixels")


def test_every_route_but_the_health_checks_needs_a_key(service: Service) -> None:
    api = client_of(make_app(service, keys=[KEY, KEY + "2"]))
    assert [
        api.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/openapi.json")
    ] == [*(200, 503, 401, 401, 401)]
    for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": KEY}, {"X-API-Key": KEY[:-1]}):
        response = api.get("/v1/models", headers=wrong)
        assert error_of(response) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for right in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}2"}, {"X-API-Key": KEY}):
        assert api.get("/v1/models", headers=right).status_code == 200
    with pytest.raises(ConfigError, match="can be guessed"):
        make_app(service, keys=["secret"])


def test_only_the_servers_own_hosts_and_origins_are_accepted(service: Service) -> None:
    api = client_of(make_app(service, Settings(cors=("https://example.org",))))
    assert error_of(api.get("/healthz", headers={"Host": "evil.example"})) == (403, "forbidden_host")
    assert error_of(api.get("/healthz", headers={"Origin": "https://evil.example"})) == (403, "forbidden_origin")
    assert api.get("/healthz", headers={"Origin": "http://localhost:8000"}).status_code == 200
    allowed = api.get("/healthz", headers={"Origin": "https://example.org"})
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    refused = api.post("/v1/embed", headers={"Origin": "https://example.org"}, json={})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, "https://example.org")
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert api.options("/v1/embed", headers=asks).status_code == 200
    assert "access-control-allow-origin" not in client_of(make_app(service)).get("/healthz").headers
    for host in ("127.0.0.1:8000", "[::1]:8000"):
        assert api.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_rate_limiter_allows_a_burst_and_then_its_rate() -> None:
    now = 0.0
    rate = RateLimiter(2, clock=lambda: now)
    for _ in range(10):
        rate.check("ada")
    with pytest.raises(RequestRefused, match="more than 2 requests a second; try again in 1 s") as refused:
        rate.check("ada")
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    rate.check("bob")
    now = 0.5
    rate.check("ada")
    with pytest.raises(RequestRefused):
        rate.check("ada")


def test_a_client_beyond_its_rate_gets_429_with_retry_after(service: Service) -> None:
    api = client_of(make_app(service, Settings(rate=0.001)))
    responses = [api.get("/v1/models") for _ in range(11)]
    assert [response.status_code for response in responses] == [200] * 10 + [429]
    assert error_of(responses[-1]) == (429, "too_many_requests")
    assert int(responses[-1].headers["retry-after"]) > 1
    assert api.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_addresses_need_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, keys=())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_addresses_need_a_key_unless_without_key_is_set(host: str) -> None:
    with pytest.raises(ConfigError, match="--without-key"):
        check_exposure(host, keys=())
    check_exposure(host, keys=[KEY])
    check_exposure(host, keys=(), without_key=True)


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"queue": 0}, {"rate": -1}, {"rate": float("nan")}, {"body_seconds": 0}, {"cors": ("*",)}):
        with pytest.raises(ConfigError):
            Settings(**settings)


def test_a_single_key_host_or_origin_is_one(service: Service) -> None:
    settings = Settings(hosts="example.org", cors="https://example.org")  # type: ignore[arg-type]
    assert (settings.hosts, settings.cors) == (("example.org",), ("https://example.org",))
    assert accepted_hosts("127.0.0.1", "example.org")[-1] == "example.org"
    with pytest.raises(ConfigError, match="name the origins"):
        Settings(cors="*")  # type: ignore[arg-type]
    api = client_of(make_app(service, keys=KEY))
    assert api.get("/v1/models", headers={"X-API-Key": KEY}).status_code == 200
    assert api.get("/v1/models", headers={"X-API-Key": KEY[0]}).status_code == 401


def test_texts_count_towards_the_row_limit_as_images_do(service: Service, cat: bytes) -> None:
    app = make_app(service, Settings(batch=1, max_rows=4))  # room for 16
    images, texts = [in_base64(cat)] * 4, ["a"] * 4
    bodies = {"/v1/match": {"images": images, "texts": texts}, "/v1/caption": {"images": images, "candidates": texts}}
    bodies["/v1/search"] = {"texts": texts, "unwanted": texts}
    with client_of(app) as api:
        operations = app.state.operations
        for path, body in bodies.items():
            with operations.rows.reserve(16 - 7):
                assert error_of(api.post(path, json=body)) == (429, "busy"), path
            with operations.rows.reserve(16 - 8):
                assert api.post(path, json=body).status_code == 200, path


# adding beside searching


def test_long_adds_do_not_delay_searches(service: Service, folder: Path) -> None:
    gate, added = threading.Event(), threading.Semaphore(0)

    def add(*arguments: Any, **settings: Any) -> AddReport:
        added.release()
        gate.wait(60)
        return AddReport()

    slow = service.at(folder / "index")
    slow.add = add  # type: ignore[method-assign]
    with running(make_app(slow, Settings())) as url, ThreadPoolExecutor(40) as clients:
        ask = partial(httpx2.post, timeout=60, trust_env=False)
        adding = [clients.submit(ask, f"{url}/v1/index/add", json={"path": "photos"}) for _ in range(40)]
        try:
            assert all(added.acquire(timeout=30) for _ in adding)
            assert ask(f"{url}/v1/search", json={"texts": ["a cat"]}).status_code == 200
        finally:
            gate.set()
        assert {future.result().status_code for future in adding} == {200}


def test_an_add_stops_at_shutdown_and_keeps_the_images_added_so_far(service: Service, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(400):
        Image.new("RGB", (64, 64), (number % 256, number // 256, 99)).save(photos / f"{number}.png")
    other = Service(service.encoder, index=tmp_path / "index", roots=[photos])

    async def add_and_end() -> None:
        operations = Operations(other, Settings(), ServerMetrics())
        operations.open()
        adding = asyncio.create_task(operations.add(str(photos), prune=False))
        while not ((progress := other.status().adding) and progress.seen):
            assert not adding.done()
            await asyncio.sleep(0.01)
        await operations.close()
        with pytest.raises(RequestRefused, match="the server is shutting down"):
            await adding

    asyncio.run(add_and_end())
    assert other.status().adding is None
    assert other.status().images < 400


# health and metrics


def test_readiness_follows_the_model_and_the_reason_of_a_failure_is_only_logged(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert error_of(client_of(make_app(service)).get("/readyz")) == (503, "not_ready")
    with client_of(make_app(service)) as api:
        assert until(lambda: api.get("/readyz").status_code == 200)
    with client_of(make_app(Service(tmp_path))) as api:
        assert until(lambda: "cannot be loaded" in api.get("/readyz").text)
        assert str(tmp_path) not in api.get("/readyz").text
        assert "is not a model" in caplog.text
        assert api.get("/healthz").status_code == 200


def until(holds: Any, seconds: float = 20.0) -> bool:
    import time

    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_metrics_count_responses_rows_and_batches(service: Service) -> None:
    with client_of(make_app(service)) as api:
        post(api, "/v1/embed", texts=["a", "b"])
        api.get("/v1/no-such-page-1")
        text = api.get("/metrics").text
    assert 'diptych_requests_total{route="/v1/embed",status="200"} 1.0' in text
    assert 'diptych_requests_total{route="other",status="404"} 1.0' in text
    assert 'diptych_rows_total{operation="embed_texts"} 2.0' in text
    assert 'diptych_batch_rows_count{operation="embed_texts"} 1.0' in text
    assert "diptych_requests_open 0.0" in text
    assert "no-such-page" not in text
