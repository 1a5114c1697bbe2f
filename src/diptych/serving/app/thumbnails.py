"""Small pictures for the page, made once for all visitors."""

from __future__ import annotations

import io

import streamlit as st
from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import ImageError
from diptych.images.decode import decode, thumbnail
from diptych.images.paths import from_text
from diptych.images.roots import Roots
from diptych.serving.app.services import roots_here


def thumbnail_of(path: str, size: int = 480) -> bytes | None:
    """The picture at a path of an index as a JPEG with sides of at most `size`.

    None if it is gone, broken, or outside the folders that may be read.
    """
    found, roots = from_text(path), roots_here()
    if not roots.hold(found):
        return None
    changed = found.stat().st_mtime_ns if found.is_file() else 0
    return _made(path, size, changed, roots)


@st.cache_data(max_entries=4_000, show_spinner=False)
def _made(path: str, size: int, changed: int, _roots: Roots) -> bytes | None:
    try:
        return encoded(thumbnail(decode(read_at(path, _roots), min_side=size), size))
    except ImageError:
        return None


def encoded(image: Image.Image) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()
