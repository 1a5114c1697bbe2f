"""Serving the page: Streamlit with our settings and limits, on this machine alone unless `host` is another."""

from __future__ import annotations

import importlib
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.errors import require
from diptych.images.decode import MAX_BYTES
from diptych.serving.api.server import check_free, hosts_of, is_loopback, run
from diptych.serving.api.settings import MIB
from diptych.serving.api.settings import Settings as Limits
from diptych.serving.app.settings import Settings

SCRIPT = Path(__file__).with_name("main.py")

_OVERHEAD = MIB  # of a form around a file
_VISITORS = 200  # connected at once
_MESSAGE = 16  # MiB of a message to or from a page
_SETTINGS = 2  # MiB of what a page's fields hold
_GONE = 60  # seconds that a visit is kept after its connection has ended
_GRACE = 5  # seconds that open requests have to end

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
    hosts: Sequence[str] = (),
    browser: bool = True,
) -> None:
    """Serve the page until the process is interrupted; with `browser`, open it in one.

    Raises:
        ConfigError: the address cannot be listened on.
        MissingExtra: Streamlit is not installed.
    """
    require("streamlit", "app")
    check_free(host, port)
    settings.publish()
    configure(host, port)
    # The first visitor need not wait for what takes seconds to import.
    threading.Thread(target=importlib.import_module, args=("diptych.models.dual_encoder",), daemon=True).start()
    if browser:
        timer = threading.Timer(2.0, webbrowser.open, [f"http://{_shown(host)}:{port}"])
        timer.daemon = True
        timer.start()
    sockets: dict[str, Any] = {
        "ws": "websockets-sansio",
        "ws_max_size": _MESSAGE * MIB,
        "ws_per_message_deflate": False,
    }
    run(page_app(hosts_of(host, hosts)), host=host, port=port, grace=_GRACE, **sockets)


def configure(host: str, port: int) -> None:
    """Have Streamlit take our options, and beside them those of the user's own ~/.streamlit alone.

    A `.streamlit` in the working folder may be a stranger's: its config.toml would change how the page is served, and
    its secrets.toml environment variables.
    """
    from streamlit import config, file_util
    from streamlit.web import bootstrap

    def own_files(file_name: str) -> list[str]:
        return [file_util.get_streamlit_file_path(file_name)]

    config.get_config_files = own_files
    bootstrap.load_config_options(streamlit_options(host, port))


def page_app(hosts: Sequence[str]) -> Any:
    """The page as an ASGI app, behind the same guard and bounds as the API."""
    from streamlit.starlette import App

    from diptych.serving.api.access import AccessControl
    from diptych.serving.api.limits import CapacityLimiter, RequestLimits
    from diptych.serving.api.middleware import ErrorMiddleware
    from diptych.serving.app.uploads import Uploads

    limits = Limits(max_bytes=MAX_BYTES + _OVERHEAD, hosts=tuple(hosts))
    requests, memory = CapacityLimiter(limits.queue, "requests"), CapacityLimiter(limits.memory, "bytes")
    app = RequestLimits(Uploads(App(SCRIPT)), limits, requests, memory, sockets=CapacityLimiter(_VISITORS, "visitors"))
    return ErrorMiddleware(AccessControl(app, limits, sockets=True))


def _shown(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host


def streamlit_options(host: str, port: int) -> dict[str, object]:
    """Streamlit's settings for the page, by their names in its config.toml."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.allowedHosts": [*hosts_of(host)] if is_loopback(host) else ["*"],  # the guard checks all of them
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.maxUploadSize": MAX_BYTES // MIB,
        "server.maxMessageSize": _MESSAGE,
        "server.maxWidgetStateSize": _SETTINGS,
        "server.disconnectedSessionTTL": _GONE,
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
