"""The script that Streamlit runs: all pages and the navigation between them."""

from __future__ import annotations

import streamlit as st

from diptych.serving.app.caption import caption_page
from diptych.serving.app.compare import compare_page
from diptych.serving.app.index import index_page
from diptych.serving.app.layout import page_setup
from diptych.serving.app.match import match_page
from diptych.serving.app.search import search_page

PAGES = [
    st.Page(caption_page, title="Caption", icon=":material/short_text:", default=True),
    st.Page(search_page, title="Search", icon=":material/search:", url_path="search"),
    st.Page(match_page, title="Match", icon=":material/join_inner:", url_path="match"),
    st.Page(index_page, title="Index", icon=":material/photo_library:", url_path="index"),
    st.Page(compare_page, title="Compare", icon=":material/compare:", url_path="compare"),
]

page_setup()
st.navigation(PAGES, position="top").run()
