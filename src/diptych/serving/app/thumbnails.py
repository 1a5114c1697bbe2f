"""Thumbnails of the library's images, cached for all visitors."""

from __future__ import annotations

import io

import streamlit as st
from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import ImageError
from diptych.images.decode import decode, thumbnail
from diptych.images.paths import from_text
from diptych.images.roots import Roots
from diptych.serving.app.services import current_roots


def thumbnail_of(path: str, size: int = 480) -> bytes | None:
    """A JPEG of the image at a path of an index, with sides of at most `size` pixels.

    None if the file is missing, cannot be decoded, or is outside the folders that may be read.
    """
    file, roots = from_text(path), current_roots()
    if not roots.contains(file):
        return None
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return _thumbnail(path, size, changed, roots)


@st.cache_data(max_entries=4_000, show_spinner=False)
def _thumbnail(path: str, size: int, changed: int, _roots: Roots) -> bytes | None:  # noqa: ARG001 - see below
    """The thumbnail; `changed` is part of the cache key, so that a file that changes is read again."""
    try:
        return _jpeg(thumbnail(decode(read_at(path, _roots), min_side=size), size))
    except ImageError:
        return None


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()
