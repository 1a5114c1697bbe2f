"""A custom page made of diptych's panels: the pictures of a library that are most similar to a selected one.

    streamlit run examples/own_page.py

It searches the sample library with `mini`. Publish `Settings` first to use your own library and models.
"""

from __future__ import annotations

import streamlit as st

from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import select_image, show_image
from diptych.serving.app.layout import error_as_message, image_count, page_setup
from diptych.serving.app.progress import timed_spinner
from diptych.serving.app.services import current_service, library_paths

page_setup("Similar pictures")
st.title("Similar pictures")

service = current_service()  # or current_service(model="runs/mine")
chooser, answer = st.columns([1, 2], gap="large")
with chooser:
    selected = select_image("query", library_paths(service))
if selected is not None:
    with answer, error_as_message():
        show_image(selected, "query")
        with timed_spinner("Searching…") as timing:
            results = service.search(image=selected.image, k=6)
        st.caption(f"{len(results.hits)} closest of {image_count(results.searched)} · {timing}")
        hit_grid(results.hits, key="similar")
