"""System folders: recycle bins, snapshots and caches of computers, network storage and photo programs."""

from __future__ import annotations

import functools
import re

SYSTEM_FOLDERS = (
    # deleted files
    *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "#recycle", "@Recycle", "Network Trash Folder", ".Trash*"),
    # earlier states of the same files
    *("#snapshot", "~snapshot", "@snapshots", "@Recently-Snapshot", ".snapshot", ".snapshots", ".zfs"),
    # file systems and operating systems
    *("System Volume Information", "lost+found", "__MACOSX", "Temporary Items", "TheVolumeSettingsFolder"),
    # thumbnails of network storage and of media players
    *("@eaDir", "@tmp", ".@__thumb", "iPod Photo Cache", "Apple TV Photo Cache", "appdata_*/preview"),
    # previews of photo programs
    *("*.lrdata", "*.lrcat-data", "CaptureOne/Cache", "*.cocatalog/Cache", "*.cosessiondb/Cache"),
    *("*.photoslibrary/resources", "*.photoslibrary/database", "*.photoslibrary/private"),
    *("*.photoslibrary/scopes", "*.photoslibrary/internal", "*.photolibrary/resources"),
    *("*.photolibrary/Thumbnails", "*.photolibrary/Previews", "*.photolibrary/Data", "*.photolibrary/Data.noindex"),
    *("*.aplibrary/Thumbnails", "*.aplibrary/Previews"),
)
"""Folders that hold no images of their own, without regard to case. `a/b` is a folder `b` whose parent is `a`."""


def is_system_folder(name: str, parent: str = "") -> bool:
    """Whether a folder has a name of `SYSTEM_FOLDERS`; `parent` is the name of the folder that holds it."""
    return bool(_names().fullmatch(name)) or bool(parent and _nested().fullmatch(f"{parent}/{name}"))


@functools.cache
def _names() -> re.Pattern[str]:
    return _any_of([pattern for pattern in SYSTEM_FOLDERS if "/" not in pattern])


@functools.cache
def _nested() -> re.Pattern[str]:
    return _any_of([pattern for pattern in SYSTEM_FOLDERS if "/" in pattern])


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    """A pattern for the whole of a name; `*` stands for any characters but a slash."""
    spelled = (re.escape(pattern).replace(r"\*", "[^/]*") for pattern in patterns)
    return re.compile("|".join(spelled), re.IGNORECASE)
