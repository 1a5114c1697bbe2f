"""Small pictures for the page, made once for all visitors."""

from __future__ import annotations

import io

import streamlit as st
from PIL import Image

from diptych.errors import ImageError
from diptych.images import decode, thumbnail
from diptych.paths import from_text, picture_at


def thumbnail_of(path: str, size: int = 480) -> bytes | None:
    """The picture at a path of an index as a JPEG with sides of at most `size`; None if it is gone or broken."""
    found = from_text(path)
    changed = found.stat().st_mtime_ns if found.is_file() else 0
    return _made(path, size, changed)


@st.cache_data(max_entries=4_000, show_spinner=False)
def _made(path: str, size: int, changed: int) -> bytes | None:
    try:
        return encoded(thumbnail(decode(picture_at(path), min_side=size), size))
    except ImageError:
        return None


def encoded(image: Image.Image) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()
