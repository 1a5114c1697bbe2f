"""The web page: pictures captioned, searched, matched, indexed and compared in a browser.

`diptych app` serves it. Each page is one file here whose parts take a service and show it, so that a page of one's own
is made of them: see docs/app.md and examples/own_page.py.
"""
