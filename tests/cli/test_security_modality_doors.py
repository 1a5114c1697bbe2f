"""A text is a text at every door: the commands, training, the API, the tools of agents, endpoints and pipelines."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from starlette.testclient import TestClient

from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError
from diptych.export.endpoint import write_endpoint
from diptych.matching.calibration import Calibration
from diptych.matching.heads import CosineHead
from diptych.matching.matcher import Matcher
from diptych.matching.storage import save_matchers
from diptych.models import dual_encoder as dual
from diptych.models.dual_encoder import DualEncoder
from diptych.runtime.progress import silent
from diptych.runtime.quoting import to_json
from diptych.serving.agents.mcp_server import make_server
from diptych.serving.agents.smolagents_tools import smolagents_tools
from diptych.serving.api.app import make_app
from diptych.serving.api.settings import Settings
from diptych.serving.client import Client
from diptych.serving.endpoint import Endpoint
from diptych.serving.pipelines.factory import pipeline, register
from diptych.serving.service import Service
from diptych.training.contrastive.train import train
from diptych.training.match.data import encode_pairs
from tests.captioning.test_captioner_models import make_blip, make_vit_gpt2
from tests.models.test_families import save_clip
from tests.models.test_security_modality import by_hand
from tests.servers import running
from tests.trap import Trap, trap

pytestmark = pytest.mark.filterwarnings("ignore::diptych.models.truncation.TextCutWarning")


@dataclass
class House:
    """A CLIP that also matches, a captioner, an index of pictures, a table of their captions, and the trap."""

    folder: Path
    trap: Trap
    model: DualEncoder
    service: Service

    @property
    def clip(self) -> Path:
        return self.folder / "model"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def table(self) -> Path:
        return self.folder / "captions.csv"

    def cosines(self, image: Image.Image) -> np.ndarray:
        """Of the image and each of the trap's texts: (4,)."""
        return by_hand(self.model, self.trap.texts) @ self.model.encode_images([image])[0]

    def probabilities(self, image: Image.Image) -> np.ndarray:
        return 1 / (1 + np.exp(4.2 - 12 * self.cosines(image)))

    def photo(self, number: int) -> Image.Image:
        return Image.open(self.photos / f"{number}.png").convert("RGB")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    for name in ("clip", "photos", "captioner", "secret"):
        (folder / name).mkdir()
    torch.manual_seed(0)
    save_clip(folder / "clip")
    make_vit_gpt2(folder / "captioner")
    model = dual.load(folder / "clip", "cpu")
    model.save(folder / "model")
    save_matchers([Matcher(model, CosineHead(), Calibration({"cosine": 12.0}, -4.2), name="cosine")], folder / "model")
    random = np.random.default_rng(3)
    for number in range(16):
        pixels = random.integers(0, 256, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    models: dict[str, Any] = {"matcher": folder / "model", "captioner": folder / "captioner"}
    service = Service(folder / "model", **models, index=folder / "index", roots=[folder / "photos"], device="cpu")
    service.add(folder / "photos")
    with trap(folder / "secret") as found:
        with (folder / "captions.csv").open("w", newline="") as file:
            rows = [(f"photos/{number}.png", found.texts[number % 4]) for number in range(16)]
            csv.writer(file).writerows([("image", "caption"), *rows])
        yield House(folder, found, model, service)


@pytest.fixture
def house(built: House) -> Iterator[House]:
    """The house, whose trap nothing may touch."""
    built.trap.touched.clear()
    yield built
    assert built.trap.touched == []


# the commands


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """What a command prints; it must end well."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def test_a_search_goes_by_the_words(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    for text, vector in zip(house.trap.texts, by_hand(house.model, house.trap.texts), strict=True):
        told = run(capsys, "search", text, "--nearest", "--json", "--index", house.folder / "index", "--device", "cpu")
        for hit in json.loads(told)["hits"]:
            expected = float(vector @ house.model.encode_images([Image.open(hit["path"]).convert("RGB")])[0])
            assert hit["score"] == pytest.approx(expected, abs=1e-3)
    mixed = ("search", *house.trap.texts, "--not", house.trap.url, "--nearest", "--json", "--device", "cpu")
    assert json.loads(run(capsys, *mixed, "--index", house.folder / "index"))["hits"]


def test_find_goes_by_the_words(house: House, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = ("--data", house.table, "-k", 16, "--grid", tmp_path / "grid.png", "--json", "--device", "cpu")
    found = json.loads(run(capsys, "find", house.clip, house.trap.url, *settings))
    assert found[0]["score"] < 0.999
    for hit in found:
        image = house.photo(int(Path(hit["image_id"]).stem))
        assert hit["score"] == pytest.approx(float(house.cosines(image)[0]), abs=1e-4)


def test_a_table_of_pairs_is_matched_by_the_words(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "match", "--pairs", house.table, "--model", house.clip, "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [row["caption"] for row in rows] == house.trap.texts * 4
    for number, row in enumerate(rows):
        expected = house.probabilities(house.photo(number))[number % 4]
        assert float(row["probability"]) == pytest.approx(expected, abs=1e-3)


COMMANDS: dict[str, tuple[str, ...]] = {
    "match": ("match", "{photos}/0.png", "{url}", "{path}", "{data}", "a dog", "--model", "{clip}"),
    "eval retrieval": ("eval", "retrieval", "{clip}", "--data", "{table}", "--split", "all"),
    "eval match": ("eval", "match", "{clip}", "--data", "{table}", "--split", "all", "--resamples", "2"),
    "eval zeroshot": ("eval", "zeroshot", "{clip}", "--data", "{table}", "--prompts", "one"),
    "classify": ("classify", "{photos}", "--labels", "{labels}", "--model", "{clip}", "--prompts", "one"),
    "candidates": ("caption", "{photos}", "--candidates", "{labels}", "--model", "{clip}", "--out", "{out}/c.jsonl"),
    "score": ("score", "{table}", "--model", "{clip}"),
    "data audit": ("data", "audit", "{table}", "--model", "{clip}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_such_captions_and_classes(
    house: House, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(house.trap.texts))
    places = {"photos": house.photos, "clip": house.clip, "table": house.table, "labels": tmp_path / "labels.txt"}
    strings = {"url": house.trap.url, "path": house.trap.path, "data": house.trap.data, "out": tmp_path}
    assert run(capsys, *(word.format(**places, **strings) for word in COMMANDS[name]), "--device", "cpu")


@pytest.mark.parametrize("frozen", [False, True], ids=["live", "frozen"])
def test_training_learns_from_such_captions(house: House, tiny: Callable[..., Any], frozen: bool) -> None:
    rates = {"lr_text": 0.0} if frozen else {}
    result = train(tiny(start=str(house.clip), data=str(house.table), epochs=1, text_arguments={}, **rates))
    assert np.isfinite(dual.load(result.model, "cpu").encode_texts(house.trap.texts)).all()


def test_a_matcher_trains_on_the_vectors_of_the_words(house: House) -> None:
    pairs = read_pairs(house.table)
    settings: dict[str, Any] = {"max_tokens": 8, "progress": silent}
    for with_states in (False, True):
        part = encode_pairs(house.model, pairs, None, with_states=with_states, **settings)
        np.testing.assert_allclose(part.text_embeddings, by_hand(house.model, part.texts), atol=1e-5)


# served


@pytest.fixture(scope="module")
def api(built: House) -> Iterator[TestClient]:
    app = make_app(built.service, Settings())
    with TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


def post(api: TestClient, route: str, **asked: Any) -> Any:
    answer = api.post(route, json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_api_embeds_searches_and_matches_by_the_words(house: House, api: TestClient) -> None:
    texts, image = house.trap.texts, house.photo(0)
    expected, seen = by_hand(house.model, texts), house.model.encode_images([house.trap.image])
    house.trap.check(np.array(post(api, "/v1/embed", texts=texts)["text_embeddings"]), expected, seen, atol=1e-4)
    for text, vector in zip(texts, expected, strict=True):
        vectors = np.array(post(api, "/v1/embed", texts=[text])["text_embeddings"])
        house.trap.check(vectors, vector[None], seen, atol=1e-4)
        best = post(api, "/v1/search", texts=[text], keep=None, k=1)["hits"][0]
        of_best = house.model.encode_images([Image.open(best["path"]).convert("RGB")])[0]
        assert best["score"] == pytest.approx(float(vector @ of_best), abs=1e-3)
    photo = house.trap.data.partition(",")[2]
    told = post(api, "/v1/match", images=[photo], texts=texts)["probabilities"][0]
    assert told == pytest.approx(list(house.probabilities(house.trap.image)), abs=1e-3)
    ranked = post(api, "/v1/caption", images=[photo], candidates=texts)["captions"][0]["candidates"]
    found = {each["text"]: each["similarity"] for each in ranked}
    assert [found[text] for text in texts] == pytest.approx(list(house.cosines(house.trap.image)), abs=1e-3)
    assert image.size == (40, 36)


def test_openai_s_route_takes_a_string_for_a_text_and_what_is_named_an_image_for_one(
    house: House, api: TestClient
) -> None:
    texts = house.trap.texts
    expected, seen = by_hand(house.model, texts), house.model.encode_images([house.trap.image])
    inputs = [texts[0], texts[1], {"text": texts[2]}, texts[3]]
    told = post(api, "/v1/embeddings", input=inputs)
    house.trap.check(np.array([each["embedding"] for each in told["data"]]), expected, seen, atol=1e-4)
    assert told["usage"]["prompt_tokens"] > 0
    named = post(api, "/v1/embeddings", input=[house.trap.data, {"image": house.trap.data}])
    np.testing.assert_allclose([each["embedding"] for each in named["data"]], np.repeat(seen, 2, 0), atol=1e-4)


@pytest.mark.parametrize("odd", ["a \\ud83d dog", "a \\u0000 dog", '[{\\"role\\": 1}]'])
def test_no_text_ends_in_a_fault_of_the_server(house: House, api: TestClient, odd: str) -> None:
    headers = {"content-type": "application/json"}
    for route, field in (("/v1/embed", "texts"), ("/v1/search", "texts"), ("/v1/embeddings", "input")):
        answer = api.post(route, content=f'{{"{field}": ["{odd}"]}}', headers=headers)
        assert answer.status_code in (200, 422), answer.text
    for wrong in (None, 7, {"text": "a dog"}, ["a dog"]):
        assert api.post("/v1/embed", json={"texts": ["a dog", wrong]}).status_code == 422


def test_the_client_sends_texts_and_refuses_what_is_none(house: House) -> None:
    texts = house.trap.texts
    with running(make_app(house.service, Settings())) as url, Client(url) as client:
        expected, seen = by_hand(house.model, texts), house.model.encode_images([house.trap.image])
        house.trap.check(client.embed(texts=texts).text_embeddings, expected, seen, atol=1e-4)
        assert len(client.search(texts[0], keep=None, k=3)) == 3
        told = client.match(house.trap.image, texts)
        assert told == pytest.approx(list(house.probabilities(house.trap.image)), abs=1e-3)
        doors: list[Callable[[], Any]] = [
            lambda: client.embed(texts=["a dog", {"image": texts[0]}]),  # type: ignore[list-item]
            lambda: client.match(house.trap.image, [("a", "b")]),  # type: ignore[list-item]
            lambda: client.search(["a dog", None]),  # type: ignore[list-item]
        ]
        for door in doors:
            with pytest.raises(ConfigError, match="must be a string"):
                door()


def test_agents_tools_take_words(house: House) -> None:
    server, tools = make_server(house.service), {tool.name: tool for tool in smolagents_tools(house.service)}
    named = next(iter(house.service.search("a dog", keep=None))).id
    for text in house.trap.texts:
        assert tools["search_images"](query=text)["text"]
        told: Any = asyncio.run(server.call_tool("search_images", {"query": text}))
        assert not told.is_error
    expected = house.probabilities(house.service.image(named))
    lines = [f"{probability:.3f} {to_json(text)}" for probability, text in zip(expected, house.trap.texts, strict=True)]
    asked = {"image": named, "texts": house.trap.texts}
    assert tools["match_image"](**asked)["text"].splitlines()[1:] == lines
    matched: Any = asyncio.run(server.call_tool("match_image", asked))
    assert matched.content[0].text.splitlines()[1:] == lines


def test_an_endpoint_takes_texts_for_texts(house: House, tmp_path: Path) -> None:
    endpoint = Endpoint(write_endpoint(house.clip, tmp_path / "endpoint"))
    texts, image = house.trap.texts, house.trap.data
    expected, seen = by_hand(house.model, texts), house.model.encode_images([house.trap.image])
    house.trap.check(np.array(endpoint({"inputs": texts})), expected, seen, atol=1e-4)
    house.trap.check(np.array(endpoint({"inputs": {"texts": texts}})["texts"]), expected, seen, atol=1e-4)
    house.trap.check(np.array(endpoint({"inputs": texts[0]})), expected[:1], seen, atol=1e-4)
    told = endpoint({"inputs": image, "parameters": {"texts": texts}})
    assert [each["probability"] for each in told] == pytest.approx(
        list(house.probabilities(house.trap.image)), abs=1e-3
    )
    classes = endpoint({"inputs": image, "parameters": {"candidate_labels": texts, "hypothesis_template": "{}"}})
    logits = house.cosines(house.trap.image) * house.model.logit_scale
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert {each["label"]: each["score"] for each in classes} == pytest.approx(
        dict(zip(texts, map(float, shares), strict=True)), abs=1e-3
    )
    for odd in ({"texts": [{"image": texts[0]}]}, {"images": [texts[0]]}, {"images": [texts[1]]}):
        with pytest.raises(ConfigError):
            endpoint({"inputs": odd})


# pipelines


def test_labels_are_words_and_an_image_s_url_is_refused(house: House) -> None:
    classify = pipeline("zero-shot-image-classification", house.clip, "cpu")
    texts = house.trap.texts
    found = classify(house.trap.image, candidate_labels=texts, hypothesis_template="{}")
    logits = house.cosines(house.trap.image) * house.model.logit_scale
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    by_label = {each["label"]: each["score"] for each in found}
    assert [by_label[text] for text in texts] == pytest.approx(list(shares), abs=1e-4)
    assert house.trap.touched == []
    for images in (house.trap.url, [house.trap.image, house.trap.url], house.trap.url.upper()):
        with pytest.raises(ConfigError, match="is a URL, and URLs are not fetched"):
            classify(images, candidate_labels=["a dog"])


def test_no_pipeline_fetches_an_image_unless_it_is_allowed_to(built: House, tmp_path: Path) -> None:
    built.trap.touched.clear()
    (tmp_path / "blip").mkdir()
    make_blip(tmp_path / "blip")
    register()
    extract = pipeline("image-feature-extraction", built.clip, "cpu")
    talk = pipeline("image-text-to-text", tmp_path / "blip", "cpu")
    chat = [{"role": "user", "content": [{"type": "image", "url": built.trap.url}, {"type": "text", "text": "a dog"}]}]
    other = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": built.trap.url}}]}]
    doors: list[Callable[[], Any]] = [
        lambda: extract(built.trap.url),
        lambda: pipeline("image-to-text", built.folder / "captioner", "cpu")(built.trap.url),
        lambda: transformers.pipeline("image-captioning", model=str(built.folder / "captioner"))(built.trap.url),
        lambda: talk(images=built.trap.url, text="a dog"),
        lambda: talk(images=[built.trap.url], text=["a dog"]),
        *(lambda: talk(text=chat), lambda: talk(text=other)),
    ]
    for door in doors:
        with pytest.raises(ConfigError, match="pass urls=True"):
            door()
    assert built.trap.touched == []
    assert talk(images=built.trap.image, text=built.trap.url, max_new_tokens=2)
    assert built.trap.touched == []
    seen = built.model.encode_images([built.trap.image])
    np.testing.assert_allclose(extract(str(built.trap.path)), seen, atol=1e-5)
    np.testing.assert_allclose(extract(built.trap.data), seen, atol=1e-5)
    assert not any(each.startswith("GET") for each in built.trap.touched)
    np.testing.assert_allclose(extract(built.trap.url, urls=True), seen, atol=1e-5)
    allowed = pipeline("image-feature-extraction", built.clip, "cpu", urls=True)
    np.testing.assert_allclose(allowed(built.trap.url), seen, atol=1e-5)
    assert built.trap.touched.count("GET /private.png") == 2
