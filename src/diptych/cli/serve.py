"""`diptych serve`: the HTTP API."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, default_name_transform

from diptych.cli.options import Device, Flag, FollowLinks, Model, OptionalInputPath, Port, check_inputs, check_model
from diptych.errors import DataError
from diptych.serving.api.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from diptych.serving.service import Service

_Part = Annotated[str | None, Parameter(validator=check_model)]


@Parameter(name="*")
@dataclass(frozen=True)
class Models:
    """The models of a server.

    Attributes:
        model: The dual encoder, which embeds and searches.
        captioner: Captioner; None: the model's own.
        matcher: Matcher; None: the model's own.
        prompter: Prompter; None: the model's own.
    """

    model: Model = "mini"
    captioner: Annotated[_Part, Parameter(help="Captioner. Default: the one that comes with the model.")] = None
    matcher: Annotated[_Part, Parameter(help="Matcher. Default: the one that comes with the model.")] = None
    prompter: Annotated[_Part, Parameter(help="Prompter. Default: the one that comes with the model.")] = None


Roots = Annotated[tuple[Path, ...], Parameter("--root", negative="", validator=check_inputs)]

_KEYS = "DIPTYCH_API_KEYS"
_FLAGS = {  # of settings whose name says too little beside other options
    "batch": "batch-size",
    "hosts": "allowed-hosts",
    "max_bytes": "max-body",
    "memory": "max-memory",
    "wait": "batch-wait",
}


def _flag_of(field: str) -> str:
    return _FLAGS.get(field, default_name_transform(field))


def serve(
    *,
    models: Models = Models(),
    index: Path | None = None,
    roots: Roots = (),
    follow_links: FollowLinks = False,
    host: str = "127.0.0.1",
    port: Port = 8000,
    key_file: OptionalInputPath = None,
    without_key: Flag = False,
    grace: int = 30,
    settings: Annotated[Settings, Parameter(name="*", name_transform=_flag_of)] = Settings(),  # noqa: B008 - frozen
    device: Device = "auto",
) -> None:
    """Serve search, captions, matching and prompts over HTTP. Press Ctrl-C to stop.

    When it stops, requests in flight are finished first, for up to --grace seconds.

    By default, only programs on this machine can connect. On any other --host, clients need an API key. The API is
    described at /openapi.json.

    Parameters
    ----------
    index
        Library or index folder to search.
    roots
        Folders that clients may index, with their subfolders. None by default.
    host
        Address to listen on; 0.0.0.0 means all addresses of the machine.
    port
        Port to listen on.
    key_file
        File of API keys, one per line. Keys may also be set in DIPTYCH_API_KEYS, separated by commas.
    without_key
        Accept requests without an API key on any --host.
    grace
        Seconds that requests in flight have to finish after the server is told to stop.
    """
    from diptych.serving.api.app import make_app
    from diptych.serving.api.server import accepted_hosts, check_exposure, run

    keys = read_keys(key_file)
    check_exposure(host, keys, without_key)
    further_hosts = () if settings.hosts == LOOPBACK else settings.hosts
    settings = replace(settings, hosts=accepted_hosts(host, further_hosts, keys))
    log_to_standard_error()
    service = make_service(models, index, roots, follow_links, device)
    app = make_app(service, settings, keys)
    run(app, host=host, port=port, grace=grace, queue=settings.queue, stop=app.state.operations.stop)


def make_service(
    models: Models, index: Path | None, roots: tuple[Path, ...], follow_links: bool, device: str
) -> Service:
    """The service behind the HTTP API and the MCP tools."""
    if index is not None and not index.exists() and not roots:
        raise DataError(f"'{index}' does not exist; make an index there with `diptych index FOLDER`")
    from diptych.serving.service import Service

    return Service(
        models.model,
        captioner=models.captioner,
        matcher=models.matcher,
        prompter=models.prompter,
        index=index,
        roots=roots,
        follow_links=follow_links,
        device=device,
    )


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys from a file and from the environment. There is no flag for keys: every user can read command lines."""
    from diptych.runtime.files import read_text

    lines = read_text(file).splitlines() if file else []
    return tuple(key for key in map(str.strip, [*lines, *os.environ.get(_KEYS, "").split(",")]) if key)


def log_to_standard_error(level: int = logging.INFO) -> None:
    """Log diptych and uvicorn at this level, everything else from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("diptych", "uvicorn"):
        logging.getLogger(name).setLevel(level)
