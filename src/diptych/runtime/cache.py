"""The cache folder, for results that are expensive but can be computed again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, which may not exist yet: `DIPTYCH_CACHE` if set, else `diptych` in the platform's cache folder.

    That is `LOCALAPPDATA` on Windows, `~/Library/Caches` on macOS, and `XDG_CACHE_HOME` or `~/.cache` elsewhere.
    """
    if chosen := os.environ.get("DIPTYCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diptych"
