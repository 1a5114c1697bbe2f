"""The client gives over HTTP what the service gives here: values, types and errors."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.errors import ConfigError, DataError, DiptychError, ImageError, ModelError
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters
from diptych.serving import results as answers
from diptych.serving.api.app import make_app
from diptych.serving.api.settings import Settings
from diptych.serving.client import Client, ServiceError
from diptych.serving.service import Service
from tests.broken import encoded
from tests.servers import free_port, photo, running

KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def folder(whole: tuple[Service, Path]) -> Path:
    return whole[1]


@pytest.fixture(scope="module")
def service(whole: tuple[Service, Path]) -> Service:
    return whole[0]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with running(make_app(service, Settings(max_rows=8), keys=[KEY])) as url, Client(url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
def cat(folder: Path) -> Path:
    return photo(folder, "cat.png")


def test_pictures_go_over_in_whatever_form_they_are(client: Client, service: Service, cat: Path) -> None:
    pictures = [cat, str(cat), cat.read_bytes(), Image.open(cat)]
    told = client.embed(pictures, ["a cat"])
    local = service.embed(pictures, ["a cat"])
    assert told.image_vectors.dtype == np.float32
    assert np.allclose(told.image_vectors, local.image_vectors, atol=1e-4)
    assert np.allclose(told.text_vectors, local.text_vectors, atol=1e-4)
    assert client.embed(texts=["a"]).image_vectors.shape == (0, 256)
    assert client.embed().similarity.shape == service.embed().similarity.shape


def test_a_search_gives_the_same_results(client: Client, service: Service, cat: Path) -> None:
    asked: dict[str, Any] = {"k": 4, "keep": None, "filters": Filters(min_side=50, since=datetime.date(2001, 1, 1))}
    told, local = client.search("a cat", image=cat, **asked), service.search("a cat", image=cat, **asked)
    assert [hit.id for hit in told] == [hit.id for hit in local]
    assert [hit.date for hit in told] == [hit.date for hit in local]
    assert (told.total, told.searched, told.first_rank) == (local.total, local.searched, local.first_rank)
    assert told.nearest == told.hits[0]
    assert [hit.id for hit in client.similar(told.hits[0].id)] == [hit.id for hit in service.similar(told.hits[0].id)]
    assert client.picture(told.hits[0].id, size=32).width <= 32
    nothing = client.search("a cat", filters=Filters(folder="/nowhere"))
    assert (len(nothing), nothing.nearest) == (0, None)


def test_captions_and_matches_are_the_same(client: Client, service: Service, cat: Path) -> None:
    settings: dict[str, Any] = {"count": 2, "beams": 2, "candidates": ["a cat", "a rocket"]}
    told, local = client.caption([cat], **settings), service.caption([cat], **settings)
    assert [each.text for each in told[0].alternatives] == [each.text for each in local[0].alternatives]
    assert told[0].best == local[0].best
    assert told[0].candidates[0].text == "a cat"
    assert told[0].confidence == pytest.approx(local[0].confidence, abs=1e-4)
    assert np.allclose(client.match(cat, ["a cat", "a dog"]), service.match(cat, ["a cat", "a dog"]), atol=1e-4)
    assert client.match(cat, "a cat") == client.match(cat, ["a cat"])


def test_the_index_is_changed_from_afar(client: Client, service: Service, folder: Path) -> None:
    first = client.search("a rocket", keep=None).hits[0]
    assert client.status() == service.status()
    assert client.remove([first.id]) == 1
    added = client.add(folder / "photos")
    assert (added.new, added.unchanged, added.pictures) == (1, 14, 15)
    assert client.models() == service.models()


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda s: s.embed([encoded("JPEG")[:300]]), ImageError),
        (lambda s: s.embed([Path("no-such-file.jpg")]), ImageError),
        (lambda s: s.add("/"), DataError),
        (lambda s: s.similar("0" * 32), DataError),
        (lambda s: s.search(unwanted="a"), ConfigError),
        (lambda s: s.caption([Image.new("RGB", (9, 9))], method="greedy", count=2), ConfigError),
    ],
)
def test_errors_are_those_of_the_service(client: Client, service: Service, ask: Any, error: type[DiptychError]) -> None:
    told = []
    for each in (service, client):
        with pytest.raises(error) as raised:
            ask(each)
        told.append(raised.value)
    assert type(told[0]) is type(told[1])
    assert getattr(told[0], "reason", None) == getattr(told[1], "reason", None)
    assert told[0].status == told[1].status


def test_what_only_a_server_can_say_is_a_service_error(client: Client) -> None:
    with pytest.raises(ServiceError, match="the limit is 8") as refused:
        client.embed(texts=["a"] * 9)
    assert (refused.value.status, refused.value.type) == (413, "too_many_rows")
    assert refused.value.request_id
    with pytest.raises(ServiceError, match="API key is missing or wrong") as refused:
        Client(str(client._http.base_url)).models()
    assert refused.value.status == 401
    with pytest.raises(ServiceError, match="is `diptych serve` running there") as refused:
        Client(f"http://127.0.0.1:{free_port()}").models()
    assert refused.value.status == 0


def test_a_service_without_a_model_of_a_kind_says_so_from_afar(tmp_path: Path, service: Service) -> None:
    service.encoder.save(tmp_path / "plain")
    with running(make_app(Service(tmp_path / "plain", device="cpu"))) as url, Client(url) as client:
        with pytest.raises(ModelError, match="has no captioner"):
            client.caption([Image.new("RGB", (8, 8))])
        assert [model.available for model in client.models()] == [True, False, False, False]


def test_the_usual_cutoff_is_that_of_the_index() -> None:
    assert answers.KEEP == KEEP
    assert diptych.Client is Client
