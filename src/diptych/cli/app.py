"""`diptych app`: the web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.options import Device, FollowLinks, InputImages, Port, Several, check_model
from diptych.cli.show import echo, warn
from diptych.errors import DataError

_Part = Annotated[str | None, Parameter(validator=check_model)]


def app(
    *,
    index: Path | None = None,
    model: _Part = None,
    captioner: _Part = None,
    matcher: _Part = None,
    prompter: _Part = None,
    compare: Several = (),
    root: InputImages = (),
    follow_links: FollowLinks = False,
    host: str = "127.0.0.1",
    port: Port = 8501,
    hosts: Annotated[Several, Parameter("--allowed-hosts")] = (),
    browser: bool = True,
    device: Device = "auto",
) -> None:
    """Start a web page to search, caption, match, index and compare. Press Ctrl-C to stop.

    Without options, the page shows the bundled model, mini, and the sample library.

    Parameters
    ----------
    index
        Library or index folder to open first.
    model
        Dual encoder: a training run, a model directory or a hub name. Default: the model of the index, or mini.
    captioner
        Captioner: a run, a directory or a hub name (ViT-GPT2, BLIP). Default: the one that comes with the model.
    matcher
        Matcher. Default: the one that comes with the model.
    prompter
        Prompter. Default: the one that comes with the model.
    compare
        Further models that users of the page may compare with --model.
    root
        Folders that users of the page may index, with their subfolders. Default: your home folder and the working
        folder if --host is a loopback address, otherwise none.
    host
        Address to listen on. With 0.0.0.0, everyone who can reach this machine can use the page: it has no password.
    port
        Port to listen on.
    hosts
        Further host names under which the page may be opened, such as a proxy's. localhost and the address that it
        listens on are always accepted.
    browser
        Open the page in a browser.
    """
    if index is not None and not index.expanduser().exists() and not root:
        raise DataError(f"'{index}' does not exist; make an index there with `diptych index FOLDER`")
    from diptych.serving.api.server import is_loopback
    from diptych.serving.app.server import serve
    from diptych.serving.app.settings import Settings

    local = is_loopback(host)
    roots = root or ((Path.home(), Path.cwd()) if local else ())
    settings = Settings(
        model=model,
        captioner=captioner,
        matcher=matcher,
        prompter=prompter,
        index=str(index.expanduser().resolve()) if index else None,
        compare=compare,
        roots=tuple(str(folder.expanduser().absolute()) for folder in roots),
        follow_links=follow_links,
        any_model=local,
        device=device,
    )
    if not local:
        warn(f"everyone who can reach {host}:{port} can see the library; the page has no password")
    echo(f"web page: http://{f'[{host}]' if ':' in host else host}:{port} (press Ctrl-C to stop)")
    serve(settings, host=host, port=port, hosts=hosts, browser=browser)
