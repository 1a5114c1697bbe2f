"""The server of the web page: Streamlit with diptych's settings, host checks and limits."""

from __future__ import annotations

import importlib
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.errors import require
from diptych.images.decode import MAX_UPLOAD_BYTES
from diptych.serving.api.server import accepted_hosts, check_port, is_loopback, run
from diptych.serving.api.settings import MIB
from diptych.serving.api.settings import Settings as Limits
from diptych.serving.app.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SCRIPT = Path(__file__).with_name("main.py")

_FORM_OVERHEAD = MIB  # bytes of an upload's form besides the file
_MAX_VISITORS = 200  # open connections
_MESSAGE_MIB = 16  # largest WebSocket message
_WIDGET_STATE_MIB = 2  # largest content of a page's fields
_SESSION_SECONDS = 60  # how long a visit is kept after its connection has closed
_SHUTDOWN_SECONDS = 5  # for requests that are still open
_BROWSER_DELAY = 2.0  # seconds before the browser opens

_LIGHT = {
    "primaryColor": "#2158c9",
    "backgroundColor": "#fcfcfd",
    "secondaryBackgroundColor": "#f1f3f7",
    "textColor": "#1c202a",
    "borderColor": "#dfe2e8",
    "linkColor": "#2158c9",
}
_DARK = {
    "primaryColor": "#4378e3",
    "backgroundColor": "#14161b",
    "secondaryBackgroundColor": "#1e2128",
    "textColor": "#eceef3",
    "borderColor": "#323743",
    "linkColor": "#8db4ff",
}


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    hosts: str | Sequence[str] = (),
    browser: bool = True,
) -> None:
    """Serve the page until the process is interrupted.

    `host` is the address to listen on, by default this machine only. `hosts` are further names by which clients may
    reach the page. `browser` opens the page in a browser.

    Raises:
        ConfigError: the server cannot listen on the address.
        MissingExtra: Streamlit is not installed.
    """
    require("streamlit", "app")
    check_port(host, port)
    settings.publish()
    configure(host, port)
    # Importing takes seconds; started here, it is done when the first visitor arrives.
    threading.Thread(target=importlib.import_module, args=("diptych.models.dual_encoder",), daemon=True).start()
    if browser:
        timer = threading.Timer(_BROWSER_DELAY, webbrowser.open, [f"http://{_browser_host(host)}:{port}"])
        timer.daemon = True
        timer.start()
    app = page_app(accepted_hosts(host, hosts))
    run(app, host=host, port=port, grace=_SHUTDOWN_SECONDS, message_bytes=_MESSAGE_MIB * MIB)


def configure(host: str, port: int) -> None:
    """Give Streamlit the options of the page; otherwise only the user's ~/.streamlit counts.

    A `.streamlit` folder in the working directory may come from somebody else: its config.toml would change how the
    page is served, and its secrets.toml would set environment variables.
    """
    from streamlit import config, file_util
    from streamlit.web import bootstrap

    def own_files(file_name: str) -> list[str]:
        return [file_util.get_streamlit_file_path(file_name)]

    config.get_config_files = own_files
    bootstrap.load_config_options(streamlit_options(host, port))


def page_app(hosts: Sequence[str]) -> ASGIApp:
    """The page as an ASGI app, with the host checks and request limits of the API."""
    from streamlit.starlette import App

    from diptych.serving.api.access import AccessControl
    from diptych.serving.api.limits import CapacityLimiter, RequestLimits
    from diptych.serving.api.middleware import ErrorMiddleware
    from diptych.serving.app.uploads import Uploads

    limits = Limits(max_bytes=MAX_UPLOAD_BYTES + _FORM_OVERHEAD, hosts=tuple(hosts))
    requests, memory = CapacityLimiter(limits.queue, "requests"), CapacityLimiter(limits.memory, "bytes")
    sockets = CapacityLimiter(_MAX_VISITORS, "visitors")
    app = RequestLimits(Uploads(App(SCRIPT)), limits, requests, memory, sockets=sockets)
    return ErrorMiddleware(AccessControl(app, limits, sockets=True))


def _browser_host(host: str) -> str:
    """The host part of the address that the browser opens."""
    return "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host


def streamlit_options(host: str, port: int) -> dict[str, object]:
    """Streamlit's options for the page, by their names in config.toml."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.allowedHosts": [*accepted_hosts(host)]
        if is_loopback(host)
        else ["*"],  # `AccessControl` checks the host
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.maxUploadSize": MAX_UPLOAD_BYTES // MIB,
        "server.maxMessageSize": _MESSAGE_MIB,
        "server.maxWidgetStateSize": _WIDGET_STATE_MIB,
        "server.disconnectedSessionTTL": _SESSION_SECONDS,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "logger.hideWelcomeMessage": True,
        "theme.font": "sans-serif",
        "theme.baseRadius": "0.6rem",
        "theme.headingFontSizes": ["2rem", "1.4rem", "1.15rem"],
        "theme.showWidgetBorder": True,
        **{f"theme.light.{name}": value for name, value in _LIGHT.items()},
        **{f"theme.dark.{name}": value for name, value in _DARK.items()},
    }
