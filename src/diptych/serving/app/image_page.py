"""A page about one image: the image is chosen on the left, and the answer is on the right."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from diptych.serving.app.image_input import SelectedImage, select_image, show_placeholder
from diptych.serving.app.index import offer_indexing
from diptych.serving.app.layout import page_header
from diptych.serving.app.services import current_service, library_paths
from diptych.serving.service import Service


def image_page(title: str, lead: str, panel: Callable[[Service, SelectedImage], None]) -> None:
    """Show a page with a heading, a sentence and the input for an image, and `panel` once one is chosen."""
    page_header(title, lead)
    service = current_service()
    chooser, answer = st.columns([2, 3], gap="large")
    with chooser:
        selected = select_image(title.lower(), library_paths(service))
        offer_indexing(service)
    with answer:
        if selected is None:
            show_placeholder(bool(service.index))
        else:
            panel(service, selected)
