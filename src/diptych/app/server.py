"""Serving the page: Streamlit with our settings, on this machine alone unless told otherwise."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path

from diptych.api.run import check_free, is_loopback
from diptych.api.settings import LOOPBACK
from diptych.app.settings import Settings
from diptych.errors import require
from diptych.images import MAX_BYTES

SCRIPT = Path(__file__).with_name("main.py")

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


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8501, browser: bool = True) -> None:
    """Serve the page until the process is interrupted; with `browser`, open it in one.

    Raises:
        ConfigError: the address cannot be listened on.
        MissingExtra: Streamlit is not installed.
    """
    require("streamlit", "app")
    from streamlit.web import bootstrap

    check_free(host, port)
    settings.publish()
    # The first visitor need not wait for what takes seconds to import.
    threading.Thread(target=importlib.import_module, args=("diptych.dual",), daemon=True).start()
    options = streamlit_options(host, port, browser)
    bootstrap.load_config_options(options)
    bootstrap.run(str(SCRIPT), False, [], options)


def streamlit_options(host: str, port: int, browser: bool = False) -> dict[str, object]:
    """Streamlit's settings for the page, by their names in its config.toml."""
    # A page elsewhere that has its own name point to this machine cannot speak to a page that knows its names.
    hosts = [*LOOPBACK, host] if is_loopback(host) else ["*"]
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": not browser,
        "server.allowedHosts": hosts,
        "server.maxUploadSize": MAX_BYTES // 2**20,
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
