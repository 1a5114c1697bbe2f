"""The Search page: search by text, by image or by both, with filters; results update while typing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

import streamlit as st
from PIL import Image

from diptych.images.paths import from_text
from diptych.models.unknown_words import unknown_words_message
from diptych.runtime.quoting import printable
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters, Shape
from diptych.search.results import Hit, Results
from diptych.search.retrieval import Sort
from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import SelectedImage, clear_image, select_image
from diptych.serving.app.index import offer_indexing
from diptych.serving.app.layout import error_as_message, escape_markdown, image_count, page_header
from diptych.serving.app.libraries import current_library, library_name
from diptych.serving.app.progress import timed_spinner
from diptych.serving.app.services import current_service, library_images, library_paths
from diptych.serving.app.thumbnails import thumbnail_of
from diptych.serving.service import Service

_PAGE_SIZE = 24
_SCROLL_UP = "<script>document.querySelector('[data-testid=\"stMain\"]')?.scrollTo({top: 0})</script>"
_SORTS: dict[Sort, str] = {"score": "Relevance", "newest": "Newest first", "oldest": "Oldest first"}


class _Options(NamedTuple):
    filters: Filters
    sort: Sort
    keep: float | None


class _QueryImage(NamedTuple):
    """An image in the query: how to show it, and how to remove it."""

    name: str
    image: Image.Image | bytes | None
    remove: Callable[[str], None]
    key: str


def search_page() -> None:
    """The page that searches the library."""
    page_header("Search", "Search by description, by example image, or by both.")
    service = current_service()
    if not offer_indexing(service):
        search_panel(service)


def search_panel(service: Service, *, key: str = "q") -> None:
    """Fields for text, an image and filters, and the results. The text is kept in the address as `?key=`."""
    words, buttons = st.columns([6, 2.7], vertical_alignment="bottom", gap="small")
    image, filters = buttons.columns(2, gap="small", wrap=False)
    text = words.text_input(
        "Search for",
        key=key,
        bind="query-params",
        type="search",
        live="350ms",
        placeholder="a dog on a beach",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    with image.popover("Image", icon=":material/image:", width="stretch", key=f"{key}-picture-field"):
        selected = select_image(f"{key}-picture", library_paths(service), label="Example image")
    with filters.popover("Filters", icon=":material/tune:", width="stretch", key=f"{key}-filter-field"):
        options = _option_fields(key)
    if st.session_state.pop(f"{key}-up", False):
        st.html(_SCROLL_UP, unsafe_allow_javascript=True)
    like = _similar_to(key)
    on_more_like = partial(_search_similar, key)
    _show_query_images(key, selected, like)
    with error_as_message():
        text = (text or "").strip()
        if text or selected or like:
            show = partial(show_results, service, filters=options.filters, sort=options.sort, keep=options.keep)
            show(text=text, selected=selected, like=like, key=key, on_more_like=on_more_like)
        else:
            _show_library(service, key, on_more_like)


def show_results(
    service: Service,
    *,
    text: str = "",
    selected: SelectedImage | None = None,
    like: Hit | None = None,
    key: str = "found",
    filters: Filters | None = None,
    sort: Sort = "score",
    keep: float | None = KEEP,
    on_more_like: Callable[[Hit], None] | None = None,
) -> Results:
    """Search, and show the hits as a grid with a button **Show more**.

    `selected` is an image of the query, `like` an image of the index to compare with. `filters`, `sort` and `keep` are
    those of `Service.search`, `on_more_like` that of `hit_grid`.
    """
    query = hash((text, selected and selected.content, like and like.id, filters, sort, keep))
    count_key = f"{key}-count-{query}"
    count = st.session_state.get(count_key, _PAGE_SIZE)
    with timed_spinner("Searching…") as timing:
        results = service.search(
            text or None,
            image=selected.image if selected else None,
            like=like.id if like else None,
            filters=filters,
            k=count,
            sort=sort,
            keep=keep,
        )
    _show_outcome(results, f"{timing}")
    hit_grid(results.hits, key=key, on_more_like=on_more_like)
    if results.total > len(results.hits) or results.more:
        show_more = partial(st.session_state.__setitem__, count_key, count + _PAGE_SIZE)
        st.button("Show more", key=f"{count_key}-button", on_click=show_more)
    return results


def _show_outcome(results: Results, timing: str) -> None:
    """Show the number of hits, or why there are none."""
    cutoff = escape_markdown(results.cutoff)
    if results.unknown:
        st.warning(f"Note: {escape_markdown(unknown_words_message(results.unknown))}.")
    if results.hits:
        st.caption(f"**{results.counted}** · {timing}", help=cutoff)
        return
    if results.searched and not results.unknown:
        nearest = results.nearest
        closest = f" The closest is {escape_markdown(from_text(nearest.path).name)}." if nearest else ""
        st.info(
            f"No matches among {image_count(results.searched)}.{closest} Turn on “Show closest images” under "
            "Filters to see the closest images whether or not they match."
        )
    elif not results.searched:
        st.info("No image in the library meets the filters.")
    st.caption(timing, help=cutoff)


def _option_fields(key: str) -> _Options:
    shape = st.segmented_control("Shape", get_args(Shape), format_func=str.capitalize, key=f"{key}-shape")
    first, last = st.columns(2)
    since = first.date_input("Taken from", value=None, key=f"{key}-since")
    until = last.date_input("to", value=None, key=f"{key}-until")
    side = st.number_input("Minimum shorter side (pixels)", 0, None, None, step=100, key=f"{key}-side")
    camera = st.text_input("Camera", key=f"{key}-camera", placeholder="make or model")
    caption = st.text_input("Words in the caption", key=f"{key}-caption")
    sort = st.selectbox("Sort by", get_args(Sort), format_func=_SORTS.__getitem__, key=f"{key}-sort")
    nearest = st.toggle(
        "Show closest images",
        key=f"{key}-nearest",
        help="Show the closest images, whether or not they match the query.",
    )
    filters = Filters(
        shape=shape,
        since=since,
        until=until,
        min_side=side,
        camera=camera.strip() or None,
        caption=caption.strip() or None,
    )
    return _Options(filters, sort, None if nearest else KEEP)


def _search_similar(key: str, hit: Hit) -> None:
    """Search for images similar to a hit; the callback of **More like this**."""
    st.session_state[f"{key}-like"] = current_library(), hit
    st.session_state[key] = ""  # otherwise the text would pull the results back to those it found before
    st.session_state[f"{key}-up"] = True


def _similar_to(key: str) -> Hit | None:
    """The hit whose similar images are searched; None once the visitor switches to another library."""
    library, hit = st.session_state.get(f"{key}-like", (None, None))
    return hit if library == current_library() else None


def _show_query_images(key: str, selected: SelectedImage | None, like: Hit | None) -> None:
    """Show the images of the query, each with a button that removes it."""
    images: list[_QueryImage] = []
    if selected:
        images.append(_QueryImage(selected.name, selected.image, clear_image, f"{key}-picture"))
    if like:
        images.append(_QueryImage(from_text(like.path).name, thumbnail_of(like.path, 240), _clear_similar, key))
    for item in images:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"query-{item.key}"):
            if item.image is not None:
                st.image(item.image, width=64, alt=printable(item.name))
            st.markdown(f"Similar to **{escape_markdown(item.name)}**", width="content")
            st.button(
                "Remove",
                icon=":material/close:",
                type="tertiary",
                on_click=item.remove,
                args=(item.key,),
                key=f"remove-{item.key}",
            )


def _clear_similar(key: str) -> None:
    st.session_state.pop(f"{key}-like", None)


def _show_library(service: Service, key: str, on_more_like: Callable[[Hit], None]) -> None:
    """Show the first images of the library, before anything is searched."""
    count = len(service.index or ())
    st.caption(f"**{image_count(count)}** in {escape_markdown(library_name(current_library()))}")
    hit_grid(library_images(service), key=f"{key}-library", on_more_like=on_more_like, first_rank=None)
