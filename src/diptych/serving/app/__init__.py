"""The web page: caption, search, match, index and compare in a browser (Streamlit).

`diptych app` serves it. Each page is one module, made of panels that take a service and render it. A custom page can
use the same panels: see docs/app.md and examples/own_page.py.
"""
