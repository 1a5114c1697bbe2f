"""Indexing: point at a folder, watch it being indexed, see what was skipped, and go on with that library."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from diptych.errors import ConfigError
from diptych.images.paths import from_text
from diptych.runtime.quoting import printable
from diptych.search.add_report import Added
from diptych.serving.app.frame import note, pictures, plain, told
from diptych.serving.app.services import (
    add_folder,
    index_library,
    is_gathering,
    library_here,
    library_name,
    look_at,
    service_here,
    shared_service,
    show_way_back,
)
from diptych.serving.app.settings import Settings
from diptych.serving.service import Service

_LISTED = 1_000  # skipped files
_PATIENCE = 5.0  # seconds for whoever else writes to an index


def library_page() -> None:
    st.title("Index")
    st.html(
        '<p class="d-lead">Point at a folder of pictures; then it can be searched. Nothing leaves this machine.</p>'
    )
    service = service_here()
    show_library(service)
    index_part(service)


def lead_to_index(service: Service) -> bool:
    """Where the library holds no pictures yet, say so and lead to the page where that changes; whether it is so."""
    if service.index:
        return False
    note(f"'{library_here()}' holds no pictures yet: index a folder of yours, and they can be searched.")
    st.page_link(
        st.Page(library_page, title="Index", url_path="index"), label="Index a folder", icon=":material/photo_library:"
    )
    show_way_back()
    return True


def show_library(service: Service) -> None:
    """Which library the visitor looks at, how many pictures it has, by which model; and a way back to the first."""
    library, status = library_here(), service.status()
    with st.container(horizontal=True, vertical_alignment="center"):
        if status.pictures:
            made = f"{pictures(status.pictures)}, indexed by **{plain(Path(status.model).name)}**"
            st.markdown(f"You look at **{plain(library_name(library))}**: {made}.", width="content")
        else:
            st.markdown(f"**{plain(library)}** holds no pictures yet.", width="content")
        show_way_back()


def index_part(service: Service, *, key: str = "index") -> None:
    """A field for a folder, and what indexing it did; the visitor then looks at that library.

    An index that gathers folders from elsewhere takes it in. A folder that was indexed before is brought up to date:
    what is new comes in, what is gone goes out.
    """
    settings, report = Settings.current(), f"{key}-report"
    if not settings.roots:
        note("Visitors may not index folders here: the page was started without --root FOLDER.")
        return
    with st.form(f"{key}-form", border=False):
        field, go = st.columns([5, 1], vertical_alignment="bottom")
        path = field.text_input("A folder of pictures", key=f"{key}-path", placeholder="~/Pictures")
        pressed = go.form_submit_button("Index", type="primary", width="stretch")
    st.caption(f"inside {plain(', '.join(settings.roots))}; index it again after changes: only what is new is read")
    if pressed:
        st.session_state.pop(report, None)
        with told():
            added = _index(service, path)
            st.session_state[report] = library_here(), added
            st.rerun()  # the lines above tell of the library that was left
    if report in st.session_state and st.session_state[report][0] == library_here():
        show_added(st.session_state[report][1])


def show_added(added: Added) -> None:
    """What indexing did, in figures, and the files that were skipped, each with why."""
    st.success(f"{plain(added.summary())} in {added.seconds:.1f} s", icon=":material/check_circle:")
    if not added.skipped:
        return
    reasons = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in added.reasons.items())
    st.subheader("Skipped")
    st.caption(reasons if len(added.skipped) <= _LISTED else f"{reasons}; the first {_LISTED:,}")
    rows = [
        {"file": printable(from_text(each.path).name), "why": printable(each.detail)}
        for each in added.skipped[:_LISTED]
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def _index(service: Service, path: str) -> Added:
    """Index a folder as a library of its own, or into the page's own index if that gathers folders."""
    if not path.strip():
        raise ConfigError("no folder is named; write where the pictures lie")
    folder = str(service.allowed(path.strip()))
    if (library := library_here()) == Settings.current().index and is_gathering(library):
        return add_folder(service, folder, wait=_PATIENCE)
    added = index_library(shared_service(Settings.current(), folder), folder, wait=_PATIENCE)
    look_at(folder)
    return added
