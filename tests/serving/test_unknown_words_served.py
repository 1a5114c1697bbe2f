"""What the model cannot read is said at every door of the service: Python, HTTP, its client, agents and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from diptych.models.unknown_words import UnknownWordsWarning
from diptych.serving.agents.tools import Tools
from diptych.serving.api.app import make_app
from diptych.serving.api.settings import Settings
from diptych.serving.client import Client
from diptych.serving.service import Service
from tests.servers import photo, running

FOREIGN = "собака"
KEY = "a-key-of-the-tests-0123456789"

pytestmark = pytest.mark.filterwarnings("ignore::diptych.models.unknown_words.UnknownWordsWarning")


def test_the_service_names_what_its_models_cannot_read(whole: tuple[Service, Path]) -> None:
    service, _ = whole
    assert service.unknown_texts(["a dog", FOREIGN]) == [FOREIGN]
    assert service.unknown_texts([FOREIGN], "matcher") == [FOREIGN]
    results = service.search(FOREIGN)
    assert results.unknown == (FOREIGN,)
    assert "does not know these words" in results.message


def test_every_answer_of_the_api_has_a_field_for_it(whole: tuple[Service, Path]) -> None:
    service, folder = whole
    picture = photo(folder, "cat.png").read_bytes()
    with TestClient(make_app(service, Settings()), base_url="http://127.0.0.1:8000") as api:
        assert api.post("/v1/embed", json={"texts": ["a dog", FOREIGN]}).json()["unknown"] == [FOREIGN]
        assert api.post("/v1/search", json={"texts": [FOREIGN]}).json()["unknown"] == [FOREIGN]
        assert api.post("/v1/search", json={"texts": ["a dog"]}).json()["unknown"] == []
        for route, field in (("match", "texts"), ("caption", "candidates")):
            form = {"files": {"images": picture}, "data": {field: ["a cat", FOREIGN]}}
            answer = api.post(f"/v1/{route}", **form)  # type: ignore[arg-type]
            assert answer.json()["unknown"] == [FOREIGN], answer.text


def test_the_client_warns_as_the_model_does(whole: tuple[Service, Path]) -> None:
    service, folder = whole
    with running(make_app(service, Settings(), keys=[KEY])) as url, Client(url, KEY) as client:
        with pytest.warns(UnknownWordsWarning, match=FOREIGN):
            client.embed(texts=[FOREIGN])
        with pytest.warns(UnknownWordsWarning, match=FOREIGN):
            client.match(photo(folder, "cat.png"), [FOREIGN])
        assert client.search(FOREIGN).unknown == (FOREIGN,)


def test_agents_read_it_in_the_answer(whole: tuple[Service, Path]) -> None:
    service, folder = whole
    tools = Tools(service)
    assert "does not know these words" in tools.search_images(FOREIGN).text
    assert "does not know these words" in tools.match_image(str(photo(folder, "cat.png")), [FOREIGN]).text
    assert "does not know" not in tools.match_image(str(photo(folder, "cat.png")), ["a cat"]).text
