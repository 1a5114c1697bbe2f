"""`diptych mcp`: tools for agents, over the Model Context Protocol."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from diptych.cli.options import Device, Flag, FollowLinks, OptionalInputPath, Port, Several
from diptych.cli.serve import Models, Roots, log_to_standard_error, make_service, read_keys


def mcp(
    *,
    models: Models = Models(),  # noqa: B008 - frozen
    index: Path | None = None,
    roots: Roots = (),
    follow_links: FollowLinks = False,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: Port = 8001,
    hosts: Annotated[Several, Parameter("--allowed-hosts")] = (),
    key_file: OptionalInputPath = None,
    without_key: Flag = False,
    device: Device = "auto",
) -> None:
    """Serve search, captions, matching, prompts and indexing to agents over MCP.

    With stdio, the program that runs the agent starts this command and talks to it. With http, the server listens at
    /mcp.

    Parameters
    ----------
    index
        Library or index folder to search. If the folder has no index yet, the index_folder tool creates it.
    roots
        Folders whose images agents may read and index, with their subfolders. None by default.
    transport
        Transport of the protocol.
    host
        With http, the address to listen on.
    port
        With http, the port to listen on.
    hosts
        With http, further host names of the server, such as a proxy's.
    key_file
        With http, a file of API keys, one per line. Keys may also be set in DIPTYCH_API_KEYS, separated by commas.
    without_key
        With http, accept requests without an API key on any --host.
    """
    from diptych.serving.agents.mcp_server import http_app, make_server

    log_to_standard_error(logging.WARNING)  # standard output belongs to the protocol
    server = make_server(make_service(models, index, roots, follow_links, device))
    if transport == "stdio":
        server.run("stdio")
        return
    from diptych.serving.api.server import accepted_hosts, check_exposure, run
    from diptych.serving.api.settings import Settings

    keys = read_keys(key_file)
    check_exposure(host, keys, without_key)
    run(http_app(server, Settings(hosts=accepted_hosts(host, hosts, keys)), keys), host=host, port=port)
