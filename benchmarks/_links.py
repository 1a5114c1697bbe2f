"""A file in another folder, without copying it where the disk has links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link(file: str | Path, copy: str | Path) -> None:
    try:
        os.link(Path(file).resolve(), copy)
    except OSError:
        shutil.copy2(file, copy)
