"""Searching: words, a picture, or both, with filters; results as a grid while one types."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import streamlit as st
from PIL import Image

from diptych.images.paths import from_text
from diptych.runtime.quoting import printable
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters, Shape
from diptych.search.results import Hit, Results
from diptych.search.retrieval import Sort
from diptych.serving.app.frame import pictures, plain, timed, told
from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import Picked, forget_picture, pick_picture
from diptych.serving.app.library import lead_to_index
from diptych.serving.app.services import library_here, library_name, library_paths, library_pictures, service_here
from diptych.serving.app.thumbnails import thumbnail_of
from diptych.serving.service import Service

_PAGE = 24
_UP = "<script>document.querySelector('[data-testid=\"stMain\"]')?.scrollTo({top: 0})</script>"
_SORTS: dict[Sort, str] = {"score": "Best first", "newest": "Newest first", "oldest": "Oldest first"}


def search_page() -> None:
    st.title("Search")
    st.html('<p class="d-lead">Say what a picture should show, or show one that it should be like.</p>')
    service = service_here()
    if not lead_to_index(service):
        search_part(service)


def search_part(service: Service, *, key: str = "q") -> None:
    """Fields for words, a picture and filters, and what they find. The words stand in the address as `?key=`."""
    words, beside = st.columns([6, 2.7], vertical_alignment="bottom", gap="small")
    picture, filters = beside.columns(2, gap="small", wrap=False)
    text = words.text_input(
        "What the pictures should show",
        key=key,
        bind="query-params",
        type="search",
        live="350ms",
        placeholder="a dog on a beach",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    with picture.popover("Picture", icon=":material/image:", width="stretch", key=f"{key}-picture-field"):
        picked = pick_picture(f"{key}-picture", library_paths(service), label="A picture that they should be like")
    with filters.popover("Filters", icon=":material/tune:", width="stretch", key=f"{key}-filter-field"):
        chosen = _filters(key)
    if st.session_state.pop(f"{key}-up", False):
        st.html(_UP, unsafe_allow_javascript=True)
    like = _liked(key)
    look = partial(_look_like, key)
    _show_asked(key, picked, like)
    with told():
        asked = (text or "").strip()
        if asked or picked or like:
            show_results(service, text=asked, picked=picked, like=like, key=key, more_like=look, **chosen)
        else:
            _show_library(service, key, look)


def show_results(
    service: Service,
    *,
    text: str = "",
    picked: Picked | None = None,
    like: Hit | None = None,
    key: str = "found",
    filters: Filters | None = None,
    sort: Sort = "score",
    keep: float | None = KEEP,
    more_like: Callable[[Hit], None] | None = None,
) -> Results:
    """What is found, in words and as a grid; a button shows more of it. `more_like` as in `hit_grid`."""
    more = f"{key}-count-{hash((text, picked and picked.content, like and like.id, filters, sort, keep))}"
    count = st.session_state.get(more, _PAGE)
    with timed("Searching …") as timing:
        results = service.search(
            text or None,
            image=picked.image if picked else None,
            like=like.id if like else None,
            filters=filters,
            k=count,
            sort=sort,
            keep=keep,
        )
    _show_outcome(results, f"{timing}")
    hit_grid(results.hits, key=key, more_like=more_like)
    if results.total > len(results.hits) or results.more:
        st.button("Show more", key=f"{more}-button", on_click=st.session_state.__setitem__, args=(more, count + _PAGE))
    return results


def _show_outcome(results: Results, timing: str) -> None:
    if results.hits:
        st.caption(f"**{results.counted}** · {timing}", help=plain(results.cutoff))
        return
    near = f" The nearest is {plain(from_text(results.nearest.path).name)}." if results.nearest else ""
    st.info(
        f"Nothing found among {pictures(results.searched)}.{near} “Show the nearest” in the filters shows what comes "
        "closest, whether it matches or not."
        if results.searched
        else "No picture of the library meets the filters."
    )
    st.caption(timing, help=plain(results.cutoff))


def _filters(key: str) -> dict[str, Any]:
    """The fields of the filters; gives `filters`, `sort` and `keep` of a search."""
    shape = st.segmented_control("Shape", get_args(Shape), format_func=str.capitalize, key=f"{key}-shape")
    first, last = st.columns(2)
    since = first.date_input("Taken since", value=None, key=f"{key}-since")
    until = last.date_input("until", value=None, key=f"{key}-until")
    side = st.number_input("Shorter side, pixels at least", 0, None, None, step=100, key=f"{key}-side")
    camera = st.text_input("Camera", key=f"{key}-camera", placeholder="words of its name")
    caption = st.text_input("Words of its captions", key=f"{key}-caption")
    sort = st.selectbox("Order", get_args(Sort), format_func=_SORTS.__getitem__, key=f"{key}-sort")
    nearest = st.toggle("Show the nearest, whether they match or not", key=f"{key}-nearest")
    filters = Filters(
        shape=shape,
        since=since,
        until=until,
        min_side=side,
        camera=camera.strip() or None,
        caption=caption.strip() or None,
    )
    return {"filters": filters, "sort": sort, "keep": None if nearest else KEEP}


def _look_like(key: str, hit: Hit) -> None:
    st.session_state[f"{key}-like"] = library_here(), hit
    st.session_state[key] = ""  # the words that found it would pull the rest back to themselves
    st.session_state[f"{key}-up"] = True


def _liked(key: str) -> Hit | None:
    """The picture that others should be like; None once the visitor looks at another library."""
    library, hit = st.session_state.get(f"{key}-like", (None, None))
    return hit if library == library_here() else None


def _show_asked(key: str, picked: Picked | None, like: Hit | None) -> None:
    """What is asked beside the words, each with a button that takes it away."""
    asked: list[tuple[str, Image.Image | bytes | None, Callable[[str], None], str]] = []
    asked += [(picked.name, picked.image, forget_picture, f"{key}-picture")] if picked else []
    asked += [(from_text(like.path).name, thumbnail_of(like.path, 240), _forget_like, key)] if like else []
    for name, image, forget, at in asked:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"asked-{at}"):
            if image is not None:
                st.image(image, width=64, alt=printable(name))
            st.markdown(f"like **{plain(name)}**", width="content")
            st.button(
                "Take away", icon=":material/close:", type="tertiary", on_click=forget, args=(at,), key=f"no-{at}"
            )


def _forget_like(key: str) -> None:
    st.session_state.pop(f"{key}-like", None)


def _show_library(service: Service, key: str, more_like: Callable[[Hit], None]) -> None:
    count = len(service.index or ())
    st.caption(f"**{pictures(count)}** in {plain(library_name(library_here()))}")
    hit_grid(library_pictures(service), key=f"{key}-library", more_like=more_like, first_rank=None)
