"""Attacks that were found by somebody who had not seen the defences; each once broke a promise of docs/security.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from diptych.captioning.many_images import CaptionResult
from diptych.captioning.sinks import Sidecars
from diptych.errors import ConfigError, ModelError
from diptych.matching.blip import is_blip
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import BUNDLED, METADATA
from diptych.models.modalities import preprocess_texts
from diptych.models.safety import refuse_config
from diptych.models.truncation import warn_of_cut_texts
from diptych.prompting.prompter import load_prompter
from diptych.serving.agents.tools import Tools
from diptych.serving.api.access import AccessControl
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.request_body import read_request
from diptych.serving.api.requests import EmbedRequest
from diptych.serving.api.settings import Settings
from diptych.serving.results import RankedCandidate
from diptych.serving.service import Service
from diptych.training.match.config import MatchRecipe
from diptych.training.run import LOCK, MARKER, OWNER, start_run
from tests.model_directories import make_clip


def _passed(content_type: str) -> bool:
    """Whether the guard lets a request with this Content-Type through; else it answers 415."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    headers = [(b"host", b"localhost"), (b"content-type", content_type.encode())]
    scope = {"type": "http", "headers": headers, "path": "/v1/embed", "server": ("127.0.0.1", 80), "client": None}
    try:
        asyncio.run(AccessControl(app, Settings())(scope, None, None))
    except RequestRefused as refused:
        return refused.status != 415
    return True


@pytest.mark.parametrize(
    "charset", ["punycode", '"punycode"', "undefined", "utf-16", "", "utf-8''x", "utf-8x", 'utf-8; Charset="hz"']
)
def test_a_form_in_another_charset_than_utf8_is_refused(charset: str) -> None:
    assert not _passed(f"multipart/form-data; boundary=X; charset={charset}")


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "utf8; boundary=X"])
def test_a_form_in_utf8_is_read(charset: str) -> None:
    assert _passed(f"multipart/form-data; boundary=X; charset={charset}")
    assert _passed("multipart/form-data; boundary=X")


def test_a_fault_does_not_repeat_a_name_of_megabytes() -> None:
    from starlette.requests import Request

    body = b'{"' + b"k" * 1_000_000 + b'":1}'

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    began = time.perf_counter()
    with pytest.raises(RequestRefused) as refused:
        asyncio.run(read_request(Request(scope, receive), EmbedRequest, Settings()))
    assert len(str(refused.value)) < 1_000
    assert time.perf_counter() - began < 5


class _Tower:
    """A text tower that notes how long the texts are that come to its tokenizer."""

    def __init__(self, limit: int | None) -> None:
        self.max_seq_length, self.longest = limit, 0

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        self.longest = max(self.longest, *map(len, texts))
        return list(map(len, texts))

    def preprocess(self, inputs: Sequence[dict[str, str]]) -> dict[str, Any]:
        self.token_counts([each["text"] for each in inputs])
        return {}


@pytest.mark.parametrize(("limit", "most"), [(8, 4_096), (64, 4_096), (512, 32_768), (None, 65_536)])
def test_a_text_of_a_megabyte_costs_what_the_tower_can_read(limit: int | None, most: int) -> None:
    tower: Any = _Tower(limit)
    preprocess_texts(tower, ["a dog", "!" * 1_000_000])
    assert tower.longest == most
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_cut_texts(tower, ["!" * 1_000_000])
    assert tower.longest == most
    assert bool(told) == (limit is not None)


def test_an_agent_cannot_have_any_number_of_texts_matched(tmp_path: Path) -> None:
    tools = Tools(Service("mini", roots=[tmp_path]))
    with pytest.raises(ConfigError, match="at most 64"):
        tools.match_image(str(tmp_path / "a.jpg"), ["a dog"] * 65)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"model_type": ["clip"]}),
        ("config.json", {"text_config": {"num_hidden_layers": []}}),
        ("config.json", {"text_config": 1e308}),
        ("tokenizer_config.json", {"model_max_length": [[]]}),
    ],
)
def test_odd_values_in_a_model_are_its_fault(clip: Path, tmp_path: Path, file: str, settings: dict[str, Any]) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(clip, folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **settings}))
    with pytest.raises(ModelError):
        dual.load(folder, "cpu")


@pytest.mark.parametrize("architectures", [None, 5, float("nan")])
def test_a_model_without_architectures_is_no_traceback(tmp_path: Path, architectures: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    with contextlib.suppress(ModelError):
        assert not is_blip(tmp_path)


def test_a_prompter_whose_card_says_nothing_of_its_text_encoder_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(BUNDLED / "mini", folder)
    card = json.loads((folder / METADATA).read_text())
    card["prompter"]["text_encoder"] = ["x"]
    (folder / METADATA).write_text(json.dumps(card))
    with pytest.raises(ModelError):
        load_prompter(folder, "cpu")


def test_parts_of_a_model_fetch_no_more_than_the_whole(tmp_path: Path) -> None:
    config = {"model_type": "vision-encoder-decoder", "decoder": {"model_type": "rwkv"}, "encoder": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="rwkv"):
        refuse_config(tmp_path / "config.json")


def test_a_link_beside_a_picture_is_not_written_through(tmp_path: Path) -> None:
    library, outside = tmp_path / "library", tmp_path / "outside.txt"
    library.mkdir()
    (library / "a.txt").symlink_to(outside)
    sink = Sidecars()
    sink.write([CaptionResult(str(library / "a.jpg"), texts=(RankedCandidate("a dog", 0.5, 0.5),))])
    assert sink.done(str(library / "a.jpg"))
    assert not outside.exists()


@pytest.mark.parametrize("name", [MARKER, OWNER, LOCK, "recipe.yaml", "pair"])
def test_a_run_writes_through_no_link_of_its_folder(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    out = tmp_path / "run"
    out.mkdir()
    (out / name).symlink_to(precious)
    recipe = MatchRecipe(data="nowhere", out=str(out))
    with pytest.raises(ConfigError), start_run(recipe, resume=True) as run:
        run.record()
    assert precious.read_text() == "precious"
