"""Choosing one picture: uploaded, dropped, pasted, or taken from the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image

from diptych.data.containers import read_at
from diptych.images.decode import IMAGE_SUFFIXES, MAX_BYTES, content_hash, decode, thumbnail
from diptych.images.paths import from_text
from diptych.runtime.quoting import printable
from diptych.serving.app.frame import kept, plain, told
from diptych.serving.app.services import roots_here
from diptych.serving.app.thumbnails import thumbnail_of
from diptych.serving.app.uploads import forget_upload

_SHOWN = 1280  # pixels of the longer side: enough for every model and every screen column
_PASTE = Path(__file__).with_name("paste.html")


@dataclass(frozen=True)
class Picked:
    """A picture that was chosen: upright, RGB, at most 1,280 pixels a side. `content` names its bytes."""

    name: str
    content: str
    image: Image.Image


def pick_picture(key: str, library: list[str] | None = None, *, label: str = "Your picture") -> Picked | None:
    """A field to upload, drop or paste a picture, and below it the pictures at the paths of `library` to take one.

    Several on one page need different keys. Returns None until a picture was chosen, and where what was uploaded is
    no picture, which the page then says.
    """
    state = st.session_state
    taken, turn = f"{key}-taken", f"{key}-turn"
    field = f"{key}-upload-{state.get(turn, 0)}"
    upload = st.file_uploader(
        label,
        type=sorted(suffix[1:] for suffix in IMAGE_SUFFIXES),
        key=field,
        max_upload_size=MAX_BYTES // 2**20,
        help="Drop a file here, or paste a picture with Ctrl+V.",
        on_change=lambda: state.pop(taken, None),
    )
    st.html(_PASTE, unsafe_allow_javascript=True)
    if library:
        _offer(key, library)
    with told():
        if upload is not None:
            picked = kept(f"{key}-picked", upload.file_id, lambda: _picked(upload.name, upload.getvalue()))
            forget_upload(upload.file_id)
            return picked
        if used := getattr(state.get(field), "file_id", None):  # its bytes are forgotten, the picture is not
            token, picked = state.get(f"{key}-picked", (None, None))
            return picked if token == used else None
        if path := state.get(taken):
            return kept(f"{key}-picked", path, lambda: _picked(from_text(path).name, read_at(path, roots_here())))
    return None


def _offer(key: str, library: list[str]) -> None:
    """Small pictures of the library in a row; each is a button."""
    st.caption("or take one from the library")
    with st.container(gap="small", key=f"strip-{key}"):
        for at, path in enumerate(library):
            picture = thumbnail_of(path, 240)
            if picture is None:
                continue
            with st.container(gap=None, key=f"take-{key}-{at}"):
                name = from_text(path).name
                st.image(picture, width="stretch", alt=printable(name))
                st.button(f"Take {plain(name)}", key=f"take-{key}-{at}-button", on_click=_take, args=(key, path))


def show_empty(library: bool = True) -> None:
    """What stands where a picture will; `library` is whether there are some to take."""
    ways = "paste it,<br>or take one from the library" if library else "or paste it"
    st.html(f'<div class="d-empty">Upload a picture, drop it, {ways}.</div>')


def show_picture(picked: Picked, key: str) -> None:
    st.container(key=f"shown-{key}").image(picked.image, width="stretch", alt=printable(picked.name))


def forget_picture(key: str) -> None:
    """Have the field of this key hold no picture; for the callback of a button."""
    st.session_state.pop(f"{key}-taken", None)
    st.session_state[f"{key}-turn"] = st.session_state.get(f"{key}-turn", 0) + 1  # a new field, without the upload


def _take(key: str, path: str) -> None:
    forget_picture(key)
    st.session_state[f"{key}-taken"] = path


def _picked(name: str, data: bytes) -> Picked:
    image = decode(data, min_side=_SHOWN)
    return Picked(name, content_hash(data), thumbnail(image, _SHOWN))
