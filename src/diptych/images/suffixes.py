"""Suffixes of file names: which are read as images, and what the others of a library of images are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp"),
        *(".mpo", ".jps", ".insp"),  # JPEGs of stereo and 360-degree cameras, of which the first image is read
        *(".png", ".apng", ".pns", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
        *(".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif"),
    }
)
"""Suffixes, in lower case, of the files that are read. HEIF files need pillow-heif (`pip install 'diptych[heif]'`)."""

UNREAD_KINDS: dict[str, frozenset[str]] = {
    "RAW photographs": frozenset(
        {
            *(".3fr", ".ari", ".arw", ".bay", ".braw", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff"),
            *(".gpr", ".iiq", ".k25", ".kdc", ".mdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef"),
            *(".raf", ".raw", ".rw2", ".rwl", ".rwz", ".sr2", ".srf", ".srw", ".x3f"),
        }
    ),
    "JPEG XL images": frozenset({".jxl"}),
    "vector drawings": frozenset({".svg", ".svgz", ".ai", ".eps", ".emf", ".wmf", ".cdr"}),
    "videos": frozenset(
        {
            *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".3g2"),
            *(".wmv", ".flv", ".ogv", ".insv", ".lrv", ".gifv"),
        }
    ),
    "images of other formats": frozenset(
        {
            *(".psd", ".psb", ".xcf", ".kra", ".clip", ".afphoto", ".ora", ".pdn"),
            *(".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".jxr", ".wdp", ".hdp", ".bpg", ".jls", ".qoi", ".flif"),
            *(".ico", ".icns", ".cur", ".tga", ".pcx", ".dds", ".exr", ".hdr", ".pic", ".pict", ".pct", ".sgi", ".ras"),
            *(".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm", ".xbm", ".xpm", ".djvu", ".dcm", ".fits", ".fit"),
        }
    ),
}
"""Kinds of image and video files that are not read, each with its suffixes in lower case."""

_MAX_LENGTH = 16  # longer ones are no suffixes, but names with a dot
_MAX_SUFFIXES = 1_000
_SHOWN = 6  # suffixes of a kind


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot; empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (called a million times; a Path costs three times as much)


def is_image_file(name: str) -> bool:
    """Whether a name has the suffix of an image format that diptych decodes."""
    return suffix_of(name) in IMAGE_SUFFIXES


class UnreadFiles:
    """A count of the files that are not read, by suffix."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """Count a file by its name. Files without a suffix, and more than 1,000 different suffixes, are not counted."""
        suffix = suffix_of(name)
        if 1 < len(suffix) <= _MAX_LENGTH and (suffix in self.counts or len(self.counts) < _MAX_SUFFIXES):
            self.counts[suffix.encode("utf-8", "replace").decode()] += 1

    def by_suffix(self) -> dict[str, int]:
        """The counts, largest first."""
        return dict(self.counts.most_common())


def unread_kinds(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """The counts of the suffixes of each kind in `UNREAD_KINDS`; suffixes of no kind are left out.

    Example: of `{".cr2": 2, ".txt": 1, ".mov": 1}` it is `{"RAW photographs": {".cr2": 2}, "videos": {".mov": 1}}`.
    """
    kinds = {
        kind: {suffix: number for suffix, number in counts.items() if suffix in suffixes}
        for kind, suffixes in UNREAD_KINDS.items()
    }
    return {kind: found for kind, found in kinds.items() if found}


def describe_unread(counts: Mapping[str, int], *, others: bool = False) -> str:
    """The files that were not read, in words: images and videos, and with `others` the rest; empty if there are none.

    Example: `{".cr2": 2, ".nef": 1, ".mov": 1}` reads `RAW photographs 3 (.cr2 2, .nef 1), videos 1 (.mov 1)`.
    """
    kinds = unread_kinds(counts)
    if others and (rest := {suffix: number for suffix, number in counts.items() if suffix not in _KNOWN}):
        kinds["other files"] = rest
    return ", ".join(f"{kind} {sum(of.values()):,} ({_listed(of)})" for kind, of in kinds.items())


_KNOWN = frozenset().union(*UNREAD_KINDS.values())


def _listed(counts: Mapping[str, int]) -> str:
    shown = [f"{suffix} {number:,}" for suffix, number in counts.items()][:_SHOWN]
    return ", ".join(shown) + (", …" if len(counts) > _SHOWN else "")
