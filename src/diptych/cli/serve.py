"""`diptych serve` and `diptych mcp`: the HTTP API, and tools for agents."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.serving.api.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from diptych.serving.service import Service

Flag = Annotated[bool, Parameter(negative="")]
Several = Annotated[tuple[str, ...], Parameter(negative="")]
Roots = Annotated[tuple[Path, ...], Parameter("--root", negative="")]

_KEYS = "DIPTYCH_API_KEYS"


def serve(
    *,
    model: str = "mini",
    captioner: str | None = None,
    matcher: str | None = None,
    prompter: str | None = None,
    index: Path | None = None,
    roots: Roots = (),
    follow_links: Flag = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    without_key: Flag = False,
    grace: int = 30,
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),  # noqa: B008 - frozen
    device: str = "auto",
) -> None:
    """Serve search, captions, matching and prompts over HTTP; Ctrl-C ends it when all has been answered.

    Only programs of this machine reach it, unless --host says otherwise; then it asks for a key. The description of
    every request and answer is at /openapi.json.

    Parameters
    ----------
    model
        The model that embeds and searches: one in the box, a run, a model directory, or a hub name.
    captioner
        The model that captions; the model's own when not given.
    matcher
        The model that matches; the model's own when not given.
    prompter
        The model that makes prompts; the model's own when not given.
    index
        The library or index folder to search.
    roots
        A folder that may be indexed by who asks; may be given several times. None may when it is not given.
    follow_links
        Also read what links in these folders lead to, and pictures of the index that lie elsewhere. Without it nothing
        outside the folders is read.
    host
        The address to listen at; 0.0.0.0 is every one that the machine has.
    port
        The port to listen at.
    key_file
        A file of API keys, one a line; keys may also stand in DIPTYCH_API_KEYS, with commas between them.
    without_key
        Let everybody who reaches --host ask, without a key.
    grace
        Seconds that open requests have to end when the server is stopped.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.serving.api.app import make_app
    from diptych.serving.api.server import check_place, hosts_of, run

    keys = _read_keys(key_file)
    check_place(host, keys, without_key)
    settings = replace(settings, hosts=hosts_of(host, _further(settings.hosts), keys))
    _log_to_standard_error()
    service = _service(model, captioner, matcher, prompter, index, roots, follow_links, device)
    app = make_app(service, settings, keys)
    run(app, host=host, port=port, grace=grace, queue=settings.queue, stop=app.state.operations.stop)


def mcp(
    *,
    model: str = "mini",
    captioner: str | None = None,
    matcher: str | None = None,
    prompter: str | None = None,
    index: Path | None = None,
    roots: Roots = (),
    follow_links: Flag = False,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 8001,
    hosts: Several = (),
    key_file: Path | None = None,
    without_key: Flag = False,
    device: str = "auto",
) -> None:
    """Give agents tools over MCP: search, caption and match pictures, find similar ones, index a folder.

    With stdio, the program that runs the agent starts this one and talks to it; with http, it listens at /mcp.

    Parameters
    ----------
    model
        The model that embeds and searches: one in the box, a run, a model directory, or a hub name.
    captioner
        The model that captions; the model's own when not given.
    matcher
        The model that matches; the model's own when not given.
    prompter
        The model that makes prompts; the model's own when not given.
    index
        The library or index folder to search; of a folder that is not indexed yet, index_folder makes one.
    roots
        A folder whose pictures agents may read and index; may be given several times. None when it is not given.
    follow_links
        Also read what links in these folders lead to, and pictures of the index that lie elsewhere. Without it nothing
        outside the folders is read.
    transport
        stdio or http.
    host
        With http, the address to listen at.
    port
        With http, the port to listen at.
    hosts
        With http, a further name by which the server may be asked for (the Host header), such as a proxy's; may be
        given several times.
    key_file
        With http, a file of API keys, one a line; keys may also stand in DIPTYCH_API_KEYS.
    without_key
        With http, let everybody who reaches --host ask, without a key.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.serving.agents.mcp_server import http_app, make_server

    _log_to_standard_error(logging.WARNING)  # standard output is the protocol's
    server = make_server(_service(model, captioner, matcher, prompter, index, roots, follow_links, device))
    if transport == "stdio":
        server.run("stdio")
        return
    from diptych.serving.api.server import check_place, hosts_of, run

    keys = _read_keys(key_file)
    check_place(host, keys, without_key)
    run(http_app(server, Settings(hosts=hosts_of(host, hosts, keys)), keys), host=host, port=port)


def _further(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts that were given; none where they are the default."""
    return () if hosts == LOOPBACK else hosts


def _service(
    model: str,
    captioner: str | None,
    matcher: str | None,
    prompter: str | None,
    index: Path | None,
    roots: tuple[Path, ...],
    follow_links: bool,
    device: str,
) -> Service:
    from diptych.serving.service import Service

    named = {"captioner": captioner, "matcher": matcher, "prompter": prompter}
    return Service(model, **named, index=index, roots=roots, follow_links=follow_links, device=device)


def _read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of the file and of the environment; not of the command line, which every user of a machine can read."""
    from diptych.runtime.files import read_text

    lines = read_text(file).splitlines() if file else []
    return tuple(key for key in map(str.strip, [*lines, *os.environ.get(_KEYS, "").split(",")]) if key)


def _log_to_standard_error(level: int = logging.INFO) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("diptych", "uvicorn"):
        logging.getLogger(name).setLevel(level)
