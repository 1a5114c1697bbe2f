"""`diptych app`: the web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.show import say, warn

Several = Annotated[tuple[str, ...], Parameter(negative="")]


def page(
    *,
    index: Path | None = None,
    model: str | None = None,
    captioner: str | None = None,
    matcher: str | None = None,
    prompter: str | None = None,
    compare: Several = (),
    root: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    follow_links: Annotated[bool, Parameter(negative="")] = False,
    host: str = "127.0.0.1",
    port: int = 8501,
    hosts: Several = (),
    browser: bool = True,
    device: str = "auto",
) -> None:
    """Serve a web page that captions, searches, matches, indexes and compares. Ctrl-C ends it.

    Without any option it shows mini, the model in the box, and the sample library.

    Parameters
    ----------
    index
        The library or index folder to show first.
    model
        The dual encoder: a training run, a model directory or a hub name; the one that made the index when not given,
        else mini.
    captioner
        What captions: a run, a directory or a hub name (ViT-GPT2, BLIP); the model's own when not given.
    matcher
        What gives probabilities; the model's own when not given.
    prompter
        What makes prompts; the model's own when not given.
    compare
        A model that visitors may compare with the first; may be given several times.
    root
        A folder below which visitors may index others; may be given several times. On this machine alone, your home
        folder and the working folder.
    follow_links
        Also read what links in these folders lead to, and pictures of the index that lie elsewhere.
    host
        The address to listen on. 0.0.0.0 lets everybody in who reaches this machine: the page asks for no password.
    port
        The port to listen on.
    hosts
        A further name by which the page may be asked for, such as a proxy's; may be given several times. It answers to
        localhost and the address that it is reached at.
    browser
        Open the page in a browser.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.serving.api.server import is_loopback
    from diptych.serving.app.server import serve
    from diptych.serving.app.settings import Settings

    here = is_loopback(host)
    allowed = root or ((Path.home(), Path.cwd()) if here else ())
    settings = Settings(
        model=model,
        captioner=captioner,
        matcher=matcher,
        prompter=prompter,
        index=str(index.expanduser().resolve()) if index else None,
        compare=compare,
        roots=tuple(str(folder.expanduser().absolute()) for folder in allowed),
        follow_links=follow_links,
        any_model=here,
        device=device,
    )
    if not here:
        warn(f"whoever reaches {host}:{port} sees the library; the page asks for no password")
    say(f"the page: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
    serve(settings, host=host, port=port, hosts=hosts, browser=browser)
