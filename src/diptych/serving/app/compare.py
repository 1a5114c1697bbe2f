"""The Compare page: two models side by side on the same input."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from diptych.serving.app.caption import show_captions
from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import select_image, show_image
from diptych.serving.app.index import offer_indexing
from diptych.serving.app.layout import error_as_message, escape_markdown, image_count, page_header, show_note
from diptych.serving.app.libraries import current_library
from diptych.serving.app.match import show_match, text_lines
from diptych.serving.app.progress import timed_spinner
from diptych.serving.app.services import (
    DEFAULT_MODEL,
    current_service,
    index_library,
    library_paths,
    model_name,
    service_for,
)
from diptych.serving.app.settings import Settings
from diptych.serving.loaded_models import Kind
from diptych.serving.service import Service

_HITS = 6
_INDEX_WITHOUT_ASKING = 500  # images that are indexed with another model without asking

_KINDS: dict[Kind, str] = {"encoder": "Search", "captioner": "Caption", "matcher": "Match"}
_ShowAnswer = Callable[[Service], None]


def compare_page() -> None:
    """The page that compares two models."""
    page_header("Compare", "Compare two models side by side on the same input.")
    service, settings = current_service(), Settings.current()
    options = list(dict.fromkeys([model_name(service), *settings.compare, DEFAULT_MODEL]))
    columns = enumerate(st.columns(2, gap="large"))
    names = [_model_field(i, column, options, settings.any_model) for i, column in columns]
    kind = st.segmented_control(
        "Task", list(_KINDS), format_func=_KINDS.__getitem__, default="encoder", required=True, key="compare-kind"
    )
    if kind == "encoder" and offer_indexing(service):
        return
    show_answer = _input_fields(service, kind)
    for column, name in zip(st.columns(2, gap="large"), names, strict=True):
        with column, error_as_message():
            if not name:
                show_note("Choose a second model above: a training run, a model directory or a hub name.")
            elif show_answer:
                show_answer(service_for(settings, current_library(), name, kind))


def _model_field(i: int, column: DeltaGenerator, options: list[str], any_model: bool) -> str | None:
    return column.selectbox(
        ("First model", "Second model")[i],
        options,
        index=i if i < len(options) else None,
        accept_new_options=any_model,
        placeholder="training run, directory or hub name",
        key=f"compare-model-{i}",
        persist_state="session",
    )


def _input_fields(service: Service, kind: Kind) -> _ShowAnswer | None:
    """The fields for the input of both models; returns a function that shows a service's answer to it.

    None until there is an input.
    """
    if kind == "encoder":
        text = st.text_input("Search for", key="compare-text", live="350ms").strip()
        return (lambda service: _show_hits(service, text)) if text else None
    chooser, preview = st.columns(2, gap="large")
    with chooser:
        selected = select_image("compare", library_paths(service))
    if selected is None:
        return None
    with preview:
        show_image(selected, "compare")
        if kind == "captioner":
            return lambda service: show_captions(service, selected)
        texts = text_lines("compare")
    return (lambda service: show_match(service, selected, texts)) if texts else None


def _show_hits(service: Service, text: str) -> None:
    """Show the first hits of a model, which first indexes the library if it has not yet."""
    name = model_name(service)
    if service.index is None:
        count = len(current_service().index or ())
        label = f"Index {image_count(count)} with {escape_markdown(name)}"
        if count > _INDEX_WITHOUT_ASKING and not st.button(label, key=f"by-{name}"):
            return
        index_library(service, current_library())
    with timed_spinner("Searching…") as timing:
        results = service.search(text, k=_HITS, keep=None)
    st.caption(f"{len(results.hits)} closest of {image_count(results.searched)} · {timing}")
    hit_grid(results.hits, key=f"compare-{name}")
