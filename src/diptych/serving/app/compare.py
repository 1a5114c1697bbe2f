"""Comparing: two models side by side on the same query."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from diptych.serving.app.caption import show_captions
from diptych.serving.app.frame import note, pictures, plain, timed, told
from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import pick_picture, show_picture
from diptych.serving.app.library import lead_to_index
from diptych.serving.app.match import show_match, text_lines
from diptych.serving.app.services import (
    DEFAULT_MODEL,
    index_library,
    library_here,
    library_paths,
    model_name,
    service_here,
    service_with,
)
from diptych.serving.app.settings import Settings
from diptych.serving.loaded_models import Kind
from diptych.serving.service import Service

_HITS = 6
_AT_ONCE = 500  # pictures that are indexed by another model without asking

_KINDS: dict[Kind, str] = {"encoder": "Search", "captioner": "Caption", "matcher": "Match"}
_Show = Callable[[Service], None]


def compare_page() -> None:
    st.title("Compare")
    st.html('<p class="d-lead">Two models, one question, side by side.</p>')
    service, settings = service_here(), Settings.current()
    offered = list(dict.fromkeys([model_name(service), *settings.compare, DEFAULT_MODEL]))
    names = [_choose(at, place, offered, settings.any_model) for at, place in enumerate(st.columns(2, gap="large"))]
    kind = st.segmented_control(
        "Compare by", list(_KINDS), format_func=_KINDS.__getitem__, default="encoder", required=True, key="compare-kind"
    )
    if kind == "encoder" and lead_to_index(service):
        return
    show = _question(service, kind)
    for place, name in zip(st.columns(2, gap="large"), names, strict=True):
        with place, told():
            if not name:
                note("Name another model above: a training run, a model directory or a hub name.")
            elif show:
                show(service_with(settings, library_here(), name, kind))


def _choose(at: int, place: DeltaGenerator, offered: list[str], any_model: bool) -> str | None:
    return place.selectbox(
        ("One model", "Another model")[at],
        offered,
        index=at if at < len(offered) else None,
        accept_new_options=any_model,
        placeholder="a run, a directory or a hub name",
        key=f"compare-model-{at}",
        persist_state="session",
    )


def _question(service: Service, kind: Kind) -> _Show | None:
    """What both are asked, as a function that shows a service's answer; None until something is."""
    if kind == "encoder":
        text = st.text_input("What the pictures should show", key="compare-text", live="350ms").strip()
        return (lambda service: _show_found(service, text)) if text else None
    chooser, shown = st.columns(2, gap="large")
    with chooser:
        picked = pick_picture("compare", library_paths(service))
    if picked is None:
        return None
    with shown:
        show_picture(picked, "compare")
        if kind == "captioner":
            return lambda service: show_captions(service, picked)
        texts = text_lines("compare")
    return (lambda service: show_match(service, picked, texts)) if texts else None


def _show_found(service: Service, text: str) -> None:
    """The first pictures that a model finds; the library is indexed by it first, if it was not yet."""
    name = model_name(service)
    if service.index is None:
        count = len(service_here().index or ())
        asked = count <= _AT_ONCE or st.button(f"Index {pictures(count)} by {plain(name)}", key=f"by-{name}")
        if not asked:
            return
        index_library(service, library_here())
    with timed("Searching …") as timing:
        results = service.search(text, k=_HITS, keep=None)
    st.caption(f"the nearest of {pictures(results.searched)} · {timing}")
    hit_grid(results.hits, key=f"compare-{name}")
