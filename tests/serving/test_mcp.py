"""The tools for agents, called by a real MCP client over standard input and output and over HTTP, and by smolagents."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from diptych.errors import ConfigError
from diptych.serving.agents.mcp_server import http_app, make_server
from diptych.serving.agents.smolagents_tools import smolagents_tools
from diptych.serving.agents.tools import _checked_k
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service
from tests.servers import photo, running

NAMES = ["search_images", "find_similar", "caption_image", "match_image", "index_folder"]
KEY = "a-key-of-the-tests-0123456789"


def answer(result: Any) -> str:
    return result.content[0].text


def thumbnails(result: Any) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(part.data))) for part in result.content if part.type == "image"]


async def use_every_tool(session: ClientSession, folder: Path) -> None:
    """Call every tool as an agent would, and check the answers."""
    assert [tool.name for tool in (await session.list_tools()).tools] == NAMES
    added = await session.call_tool("index_folder", {"path": str(folder / "photos")})
    assert "the library has 15" in answer(added)
    hits = await session.call_tool("search_images", {"query": "a cat", "k": 3})
    assert "cat.png" in answer(hits).splitlines()[1]
    assert thumbnails(hits)[0].size == (256, 170)
    id = answer(hits).split("id ")[1][:32]
    similar = await session.call_tool("find_similar", {"image": id, "k": 2})
    assert len(thumbnails(similar)) == 2
    assert f"id {id}" not in answer(similar)
    by_path = await session.call_tool("find_similar", {"image": str(photo(folder, "cat.png")), "k": 1})
    assert id in answer(by_path)
    captioned = await session.call_tool("caption_image", {"image": id})
    assert "confidence" in answer(captioned)
    matched = await session.call_tool("match_image", {"image": id, "texts": ["a cat", "a rocket"]})
    assert matched.is_error is False
    assert answer(matched).splitlines()[1].endswith('"a cat"')


async def check_refusals(session: ClientSession) -> None:
    for tool, arguments, message in (
        ("index_folder", {"path": "/etc"}, "outside the folders"),
        ("caption_image", {"image": "/etc/passwd"}, "outside the folders"),
        ("caption_image", {"image": "0" * 32}, "no indexed image has the id"),
        ("caption_image", {"image": "data:image/png;base64,AAAA"}, "cannot be decoded as an image"),
        ("caption_image", {"image": "data:image/png;base64,*"}, "not valid base64"),
        ("search_images", {"query": "a", "k": 1_000}, "arguments of search_images: k must be at most 20"),
        ("search_images", {"query": "a", "k": "many"}, "arguments of search_images: k must be a whole number"),
        ("search_images", {}, "arguments of search_images: query is missing"),
        ("match_image", {"image": "0" * 32, "texts": []}, "arguments of match_image: texts has no items"),
        ("search_images", {"query": " "}, "is empty"),
    ):
        result = await session.call_tool(tool, arguments)
        assert result.is_error, (tool, arguments)
        assert message in answer(result), answer(result)
        assert "pydantic" not in answer(result)


async def everything(session: ClientSession, folder: Path) -> None:
    await session.initialize()
    await use_every_tool(session, folder)
    await check_refusals(session)


def test_an_agent_uses_every_tool_over_standard_input_and_output(folder: Path, tmp_path: Path) -> None:
    models = ["--captioner", str(folder / "captioner"), "--matcher", str(folder / "matcher"), "--device", "cpu"]
    places = ["--index", str(tmp_path / "index"), "--root", str(folder / "photos")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "diptych", "mcp", *models, *places], env=environment
    )

    async def run() -> None:
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
            await everything(session, folder)

    asyncio.run(run())


def over_http(url: str, key: str | None, work: Callable[[ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120) as client,
            streamable_http_client(f"{url}/mcp", http_client=client) as (reading, writing, *_),
            ClientSession(reading, writing) as session,
        ):
            await work(session)

    asyncio.run(run())


def test_an_agent_uses_every_tool_over_http_with_a_key(service: Service, folder: Path) -> None:
    with running(http_app(make_server(service), Settings(), keys=[KEY])) as url:
        over_http(url, KEY, lambda session: everything(session, folder))
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert httpx2.post(f"{url}/mcp", json=request).status_code == 401
        key = {"Authorization": f"Bearer {KEY}"}
        assert httpx2.post(f"{url}/mcp", json=request, headers={**key, "Host": "evil.example"}).status_code == 403
        foreign = {**key, "Origin": "https://evil.example"}
        assert httpx2.post(f"{url}/mcp", json=request, headers=foreign).status_code == 403


def test_smolagents_has_the_same_tools(service: Service, folder: Path) -> None:
    tools = {tool.name: tool for tool in smolagents_tools(service)}
    assert list(tools) == NAMES
    hits = tools["search_images"](query="a cat", k=2)
    assert "cat.png" in hits["text"]
    assert max(hits["images"][0].size) == 256
    id = hits["text"].split("id ")[1][:32]
    assert len(tools["find_similar"](image=id)["images"]) == 5
    assert tools["caption_image"](image=id)["text"]
    assert "a cat" in tools["match_image"](image=id, texts=["a cat"])["text"]
    with pytest.raises(ConfigError, match="no texts"):
        tools["match_image"](image=id, texts=[])
    assert "15 unchanged" in tools["index_folder"](path=str(folder / "photos"))["text"]


@pytest.mark.parametrize(("k", "number"), [(3, 3), ("3", 3), (20, 20)])
def test_a_number_of_results_may_be_sent_as_text(k: object, number: int) -> None:
    assert _checked_k(k) == number  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, 21, "0", "-1", "2.5", "many", True])
def test_a_number_of_results_out_of_range_is_refused_in_a_sentence(k: object) -> None:
    with pytest.raises(ConfigError, match="a whole number from 1 to 20"):
        _checked_k(k)  # type: ignore[arg-type]
