"""The HTTP API over one service; `app.make_app` gives it to any ASGI server, `diptych serve` runs it."""
