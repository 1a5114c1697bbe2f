"""The image input: upload, drop or paste an image, or select one from the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image

from diptych.data.containers import read_at
from diptych.images.decode import MAX_UPLOAD_BYTES, content_hash, decode, thumbnail
from diptych.images.paths import from_text
from diptych.images.suffixes import IMAGE_SUFFIXES
from diptych.runtime.quoting import printable
from diptych.serving.app.layout import error_as_message, escape_markdown
from diptych.serving.app.progress import cached_in_session
from diptych.serving.app.services import current_roots
from diptych.serving.app.thumbnails import thumbnail_of
from diptych.serving.app.uploads import release_upload

_MAX_SIDE = 1280  # pixels: enough for every model and every column of a screen
_PASTE_SCRIPT = Path(__file__).with_name("paste.html")


@dataclass(frozen=True)
class SelectedImage:
    """An image that a visitor selected: upright, RGB, at most 1,280 pixels a side. `content` is a hash of its file."""

    name: str
    content: str
    image: Image.Image


def select_image(key: str, library: list[str] | None = None, *, label: str = "Your image") -> SelectedImage | None:
    """A field to upload, drop or paste an image, with thumbnails of the `library` paths to choose from below it.

    Several inputs on one page need different keys. Returns None until an image is selected, and for an upload that
    is not an image, for which the page shows an error.
    """
    state = st.session_state
    field = f"{key}-upload-{state.get(_reset_key(key), 0)}"
    upload = st.file_uploader(
        label,
        type=sorted(suffix[1:] for suffix in IMAGE_SUFFIXES),
        key=field,
        max_upload_size=MAX_UPLOAD_BYTES // 2**20,
        help="Drop a file here, or paste an image with Ctrl+V.",
        on_change=lambda: state.pop(_path_key(key), None),
    )
    st.html(_PASTE_SCRIPT, unsafe_allow_javascript=True)
    if library:
        _show_library(key, library)
    cache = f"{key}-selected"
    with error_as_message():
        if upload is not None:
            selected = cached_in_session(cache, upload.file_id, lambda: _load(upload.name, upload.getvalue()))
            release_upload(upload.file_id)
            return selected
        if released := getattr(state.get(field), "file_id", None):  # the bytes are gone, the decoded image is cached
            token, selected = state.get(cache, (None, None))
            return selected if token == released else None
        if path := state.get(_path_key(key)):
            return cached_in_session(cache, path, lambda: _load(from_text(path).name, read_at(path, current_roots())))
    return None


def _show_library(key: str, library: list[str]) -> None:
    """Show thumbnails of the library in a row; each is a button."""
    st.caption("or choose one from the library")
    with st.container(gap="small", key=f"strip-{key}"):
        for i, path in enumerate(library):
            image = thumbnail_of(path, 240)
            if image is None:
                continue
            with st.container(gap=None, key=f"choose-{key}-{i}"):
                name = from_text(path).name
                st.image(image, width="stretch", alt=printable(name))
                st.button(
                    f"Choose {escape_markdown(name)}",
                    key=f"choose-{key}-{i}-button",
                    on_click=_choose,
                    args=(key, path),
                )


def show_placeholder(has_library: bool = True) -> None:
    """Show how to select an image, in the place where it will appear."""
    text = "Upload, drop or paste an image" + (",<br>or choose one from the library." if has_library else ".")
    st.html(f'<div class="d-empty">{text}</div>')


def show_image(selected: SelectedImage, key: str) -> None:
    """Show the selected image."""
    st.container(key=f"shown-{key}").image(selected.image, width="stretch", alt=printable(selected.name))


def clear_image(key: str) -> None:
    """Clear the selection of the input with this key; for use as the callback of a button."""
    st.session_state.pop(_path_key(key), None)
    # A file uploader cannot be emptied, so a new one takes its place.
    st.session_state[_reset_key(key)] = st.session_state.get(_reset_key(key), 0) + 1


def _choose(key: str, path: str) -> None:
    clear_image(key)
    st.session_state[_path_key(key)] = path


def _path_key(key: str) -> str:
    """The session key of the library path that was chosen."""
    return f"{key}-path-chosen"


def _reset_key(key: str) -> str:
    """The session key of the number of times that the input was cleared."""
    return f"{key}-resets"


def _load(name: str, data: bytes) -> SelectedImage:
    image = decode(data, min_side=_MAX_SIDE)
    return SelectedImage(name, content_hash(data), thumbnail(image, _MAX_SIDE))
