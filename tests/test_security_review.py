"""Attacks that were found by somebody who had not seen the defences; each once broke a promise of docs/security.md."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from diptych.api.asked import EmbedAsked
from diptych.api.guard import Guard
from diptych.api.reading import read
from diptych.api.refusals import Refused
from diptych.api.settings import Settings
from diptych.errors import ConfigError
from diptych.service import Service
from diptych.tools import Tools


def _passed(content_type: str) -> bool:
    """Whether the guard lets a request with this Content-Type through; else it answers 415."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    headers = [(b"host", b"localhost"), (b"content-type", content_type.encode())]
    scope = {"type": "http", "headers": headers, "path": "/v1/embed", "server": ("127.0.0.1", 80), "client": None}
    try:
        asyncio.run(Guard(app, Settings())(scope, None, None))
    except Refused as refused:
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
    with pytest.raises(Refused) as refused:
        asyncio.run(read(Request(scope, receive), EmbedAsked, Settings()))
    assert len(str(refused.value)) < 1_000
    assert time.perf_counter() - began < 5


def test_a_text_of_a_megabyte_costs_no_more_than_the_tower_reads() -> None:
    import tracemalloc

    import diptych

    model = diptych.load("mini", device="cpu")
    model.encode_texts(["a dog"])
    tracemalloc.start()
    with pytest.warns(diptych.TextCutWarning):
        long = model.encode_texts(["!" * 1_000_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
    with pytest.warns(diptych.TextCutWarning):
        assert (long == model.encode_texts(["!" * 4_000])).all()


def test_an_agent_cannot_have_any_number_of_texts_matched(tmp_path: Path) -> None:
    tools = Tools(Service("mini", roots=[tmp_path]))
    with pytest.raises(ConfigError, match="at most 64"):
        tools.match_picture(str(tmp_path / "a.jpg"), ["a dog"] * 65)
