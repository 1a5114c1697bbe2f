"""The image library that a visitor looks at, and the sample library."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from diptych.data.samples.photographs import photographs
from diptych.runtime.cache import cache_dir
from diptych.search.index import index_folder
from diptych.search.layout import HIDDEN
from diptych.search.store import Store
from diptych.serving.app.layout import escape_markdown
from diptych.serving.app.settings import Settings

_SESSION_KEY = "diptych-library"


def current_library() -> str:
    """The library of this visitor: the one selected last, or the default."""
    return st.session_state.get(_SESSION_KEY) or default_library()


def default_library() -> str:
    """The library that every visitor sees first: the one in the settings, or the sample library."""
    return Settings.current().index or sample_library()


def select_library(library: str) -> None:
    """Switch this visitor to another library."""
    st.session_state[_SESSION_KEY] = library


def show_back_button() -> None:
    """Show a button that returns to the default library, if the visitor has selected another one."""
    selected = st.session_state.get(_SESSION_KEY)
    if selected and selected != (default := default_library()):
        label = f"Back to {escape_markdown(library_name(default))}"
        st.button(label, on_click=select_library, args=(default,), icon=":material/undo:", type="tertiary")


@st.cache_resource(show_spinner=False)
def sample_library() -> str:
    """The folder of the sample photographs, created in the cache folder on first use.

    Raises:
        MissingExtra: the packages that contain the photographs are not installed.
    """
    photographs(_sample_folder())
    return str(_sample_folder() / "images")


def _sample_folder() -> Path:
    return cache_dir() / "app" / "sample"


def library_name(library: str) -> str:
    """The display name of a library: its folder's name, or `the sample library`."""
    path = Path(library)
    folder = path.parent if path.name == HIDDEN else path
    return "the sample library" if folder.parent == _sample_folder() else folder.name


def image_folder(library: str) -> str | None:
    """The folder that a library's images are in; None if an index folder does not record one.

    For a folder of images it is the folder itself, for an index folder the folder that was indexed.
    """
    if not Store.is_index(Path(library)):
        return None if is_collection(library) else library
    root = Store.open(library).root
    return str(root) if root else None


def is_collection(library: str) -> bool:
    """Whether a library is an index folder, existing or not, that collects images from other folders."""
    path = Path(library)
    return path.name != HIDDEN and index_folder(path) == path.expanduser().resolve()
