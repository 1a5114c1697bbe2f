"""`Client` returns the values and types of `Service` and raises the same errors."""

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
from diptych.serving import parameters
from diptych.serving.api.app import make_app
from diptych.serving.api.settings import Settings
from diptych.serving.client import Client, ServiceError
from diptych.serving.service import Service
from tests.broken import encoded
from tests.servers import free_port, photo, running

KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with running(make_app(service, Settings(max_rows=8), keys=[KEY])) as url, Client(url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
def cat(folder: Path) -> Path:
    return photo(folder, "cat.png")


def test_images_in_any_form_give_the_embeddings_of_the_service(client: Client, service: Service, cat: Path) -> None:
    images = [cat, str(cat), cat.read_bytes(), Image.open(cat)]
    remote = client.embed(images, ["a cat"])
    local = service.embed(images, ["a cat"])
    assert remote.image_embeddings.dtype == np.float32
    assert np.allclose(remote.image_embeddings, local.image_embeddings, atol=1e-4)
    assert np.allclose(remote.text_embeddings, local.text_embeddings, atol=1e-4)
    assert client.embed(texts=["a"]).image_embeddings.shape == (0, 256)
    assert client.embed().similarity.shape == service.embed().similarity.shape


def test_a_single_path_is_one_image_and_not_one_for_each_letter(client: Client, service: Service, cat: Path) -> None:
    name = str(cat)
    assert client.embed(name).image_embeddings.shape == (1, 256)
    assert client.caption(name) == client.caption([cat])
    assert client.prompt(name) == client.prompt([cat])
    assert client.search(image=name).hits[0].path.endswith("cat.png")
    assert client.remove("0" * 32) == 0


def test_a_search_gives_the_same_results(client: Client, service: Service, cat: Path) -> None:
    options: dict[str, Any] = {"k": 4, "keep": None, "filters": Filters(min_side=50, since=datetime.date(2001, 1, 1))}
    remote, local = client.search("a cat", image=cat, **options), service.search("a cat", image=cat, **options)
    assert [hit.id for hit in remote] == [hit.id for hit in local]
    assert [hit.date for hit in remote] == [hit.date for hit in local]
    assert (remote.total, remote.searched, remote.first_rank) == (local.total, local.searched, local.first_rank)
    assert remote.nearest == remote.hits[0]
    assert [hit.id for hit in client.similar(remote.hits[0].id)] == [
        hit.id for hit in service.similar(remote.hits[0].id)
    ]
    assert client.image(remote.hits[0].id, size=32).width <= 32
    nothing = client.search("a cat", filters=Filters(folder="/nowhere"))
    assert (len(nothing), nothing.nearest) == (0, None)


def test_captions_and_probabilities_are_those_of_the_service(client: Client, service: Service, cat: Path) -> None:
    settings: dict[str, Any] = {"count": 2, "beams": 2, "candidates": ["a cat", "a rocket"]}
    remote, local = client.caption([cat], **settings), service.caption([cat], **settings)
    assert [caption.text for caption in remote[0].alternatives] == [caption.text for caption in local[0].alternatives]
    assert remote[0].best == local[0].best
    assert remote[0].candidates[0].text == "a cat"
    assert remote[0].confidence == pytest.approx(local[0].confidence, abs=1e-4)
    assert np.allclose(client.match(cat, ["a cat", "a dog"]), service.match(cat, ["a cat", "a dog"]), atol=1e-4)
    assert client.match(cat, "a cat") == client.match(cat, ["a cat"])


def test_the_client_adds_and_removes_images(client: Client, service: Service, folder: Path) -> None:
    first = client.search("a rocket", keep=None).hits[0]
    assert client.status() == service.status()
    assert client.remove([first.id]) == 1
    added = client.add(folder / "photos")
    assert (added.new, added.unchanged, added.images) == (1, 14, 15)
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
    errors = []
    for either in (service, client):
        with pytest.raises(error) as raised:
            ask(either)
        errors.append(raised.value)
    assert type(errors[0]) is type(errors[1])
    assert getattr(errors[0], "reason", None) == getattr(errors[1], "reason", None)
    assert errors[0].status == errors[1].status


def test_errors_of_the_server_itself_are_service_errors(client: Client) -> None:
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


def test_a_missing_captioner_is_a_model_error_in_the_client(tmp_path: Path, service: Service) -> None:
    service.encoder.save(tmp_path / "plain")
    with running(make_app(Service(tmp_path / "plain", device="cpu"))) as url, Client(url) as client:
        with pytest.raises(ModelError, match="has no captioner"):
            client.caption([Image.new("RGB", (8, 8))])
        assert [model.available for model in client.models()] == [True, False, False, False]


def test_the_default_cutoff_is_that_of_the_index() -> None:
    assert parameters.KEEP == KEEP
    assert diptych.Client is Client
