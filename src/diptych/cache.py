"""The cache folder: what can be made again and is dear to make, each entry complete or not there at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ABANDONED_SECONDS = 24 * 3600


def cache_dir() -> Path:
    """`DIPTYCH_CACHE` if set, else `diptych` in the platform's cache folder; it may not exist yet."""
    if chosen := os.environ.get("DIPTYCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diptych"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, renamed to `target` when the block ends well and removed when it does not.

    So `target` is whole whenever it exists, even after `kill -9`. If another process was faster, its folder stays and
    this one is dropped. A block that writes nothing leaves no `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}-*"):  # what a killed process began; a living one writes on
        if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    folder = target.parent / f".{target.name}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
        if any(folder.iterdir()) and not target.exists():
            try:
                folder.rename(target)
            except OSError:
                if not target.exists():  # not lost to another process: the disk refused
                    raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
