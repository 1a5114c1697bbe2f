"""The Index page: index a folder of images, see what was skipped, and search it from then on."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from diptych.errors import ConfigError
from diptych.images.paths import from_text
from diptych.runtime.quoting import printable
from diptych.search.add_report import AddReport
from diptych.serving.app.layout import error_as_message, escape_markdown, image_count, page_header, show_note
from diptych.serving.app.libraries import (
    current_library,
    is_collection,
    library_name,
    select_library,
    show_back_button,
)
from diptych.serving.app.services import add_folder, current_service, index_library, shared_service
from diptych.serving.app.settings import Settings
from diptych.serving.service import Service

_MAX_LISTED = 1_000  # skipped files
_WAIT_SECONDS = 5.0  # for another process that writes to the index


def index_page() -> None:
    """The page that indexes folders."""
    page_header("Index", "Index a folder of images to make it searchable. Nothing leaves this machine.")
    service = current_service()
    show_library(service)
    index_panel(service)


def offer_indexing(service: Service) -> bool:
    """If the library is empty, show a note with a link to the Index page. Returns whether the library is empty."""
    if service.index:
        return False
    show_note(f"'{current_library()}' has no images yet. Index a folder to make its images searchable.")
    st.page_link(
        st.Page(index_page, title="Index", url_path="index"), label="Index a folder", icon=":material/photo_library:"
    )
    show_back_button()
    return True


def show_library(service: Service) -> None:
    """Show the current library, its number of images and its model, and a button back to the default library."""
    library, status = current_library(), service.status()
    with st.container(horizontal=True, vertical_alignment="center"):
        if status.images:
            name, model = escape_markdown(library_name(library)), escape_markdown(Path(status.model).name)
            text = f"Current library: **{name}** ({image_count(status.images)}, indexed with **{model}**)"
        else:
            text = f"**{escape_markdown(library)}** has no images yet."
        st.markdown(text, width="content")
        show_back_button()


def index_panel(service: Service, *, key: str = "index") -> None:
    """A field for a folder, and a report once it is indexed; the folder becomes the visitor's library.

    If the current library is an index that collects images from other folders, the folder is added to it instead. A
    folder that is already indexed is updated: new images are added, missing ones are removed.
    """
    settings, report_key = Settings.current(), f"{key}-report"
    if not settings.roots:
        show_note("Indexing is disabled: the page was started without --root FOLDER.")
        return
    with st.form(f"{key}-form", border=False):
        field, button = st.columns([5, 1], vertical_alignment="bottom")
        path = field.text_input("Image folder", key=f"{key}-path", placeholder="~/Pictures")
        pressed = button.form_submit_button("Index", type="primary", width="stretch")
    st.caption(
        f"Allowed locations: {escape_markdown(', '.join(settings.roots))}. Indexing a folder again reads only what has "
        "changed."
    )
    if pressed:
        st.session_state.pop(report_key, None)
        with error_as_message():
            added = _index(service, path)
            st.session_state[report_key] = current_library(), added
            st.rerun()  # the text above names the previous library
    if report_key in st.session_state and st.session_state[report_key][0] == current_library():
        show_report(st.session_state[report_key][1])


def show_report(added: AddReport) -> None:
    """Show what indexing did, and the skipped files with the reason for each."""
    st.success(f"{escape_markdown(added.summary())} in {added.seconds:.1f} s", icon=":material/check_circle:")
    if unread := added.unread_summary():
        st.caption(f"Not read: {escape_markdown(unread)}.")
    if not added.skipped:
        return
    reasons = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in added.reasons.items())
    st.subheader("Skipped")
    st.caption(reasons if len(added.skipped) <= _MAX_LISTED else f"{reasons}; showing the first {_MAX_LISTED:,}")
    rows = [
        {"File": printable(from_text(skipped.path).name), "Reason": printable(skipped.detail)}
        for skipped in added.skipped[:_MAX_LISTED]
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def _index(service: Service, path: str) -> AddReport:
    """Index a folder as a library of its own, or into the page's own index if that collects folders."""
    if not path.strip():
        raise ConfigError("no folder given; enter the path of an image folder")
    folder = str(service.allowed(path.strip()))
    if (library := current_library()) == Settings.current().index and is_collection(library):
        return add_folder(service, folder, wait=_WAIT_SECONDS)
    added = index_library(shared_service(Settings.current(), folder), folder, wait=_WAIT_SECONDS)
    select_library(folder)
    return added
