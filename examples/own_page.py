"""A page of one's own, made of the parts of diptych's: the nearest pictures of a library to the one that is shown.

    streamlit run examples/own_page.py

It asks the sample library by `mini`; `Settings` names your own library and models.
"""

from __future__ import annotations

import streamlit as st

from diptych.serving.app.frame import dress, pictures, timed, told
from diptych.serving.app.grid import hit_grid
from diptych.serving.app.image_input import pick_picture, show_picture
from diptych.serving.app.services import library_paths, service_here

dress("Look-alikes")
st.title("Look-alikes")

service = service_here()  # or service_here(model="runs/mine")
chooser, answer = st.columns([1, 2], gap="large")
with chooser:
    picked = pick_picture("look-alike", library_paths(service))
if picked is not None:
    with answer, told():
        show_picture(picked, "look-alike")
        with timed("Looking around …") as timing:
            results = service.search(image=picked.image, k=6)
        st.caption(f"the nearest of {pictures(results.searched)}, in {timing}")
        hit_grid(results.hits, key="look-alikes")
