"""Self-contained HTML documents: embedded images, escaped text, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import io

from PIL import Image

from diptych.runtime.quoting import escaped

# Even if a file name or caption contained markup, no script would run and nothing would be fetched.
_CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --paper: #f4f5f8; --card: #fff; --mat: #e8eaef; --ink: #1c202a; --faint: #5d6472;
  --line: #dfe2e8; --accent: #2158c9 }
@media (prefers-color-scheme: dark) { :root { --paper: #14161b; --card: #1e2128; --mat: #282c35; --ink: #eceef3;
  --faint: #a0a7b5; --line: #323743; --accent: #8db4ff } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1680px; padding: 2.5rem clamp(1rem, 4vw, 3.5rem) 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
h1 { margin: 0 0 .3rem; font-size: 1.75rem; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { margin: 2.75rem 0 1rem; font-size: 1.2rem; overflow-wrap: anywhere }
.note { margin: 0 0 2rem; color: var(--faint); overflow-wrap: anywhere }
"""

# CSS for `html_document`, for pages that show images as cards: each card is an `li` with a `figure`.
CARDS = """
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1.1rem; margin: 0;
  padding: 0; list-style: none }
li { display: flex; flex-direction: column; overflow: hidden; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card) }
figure { margin: 0 } a { color: inherit; text-decoration: none } a:hover .name { color: var(--accent) }
a:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; border-radius: 12px }
.mat { display: grid; place-items: center; aspect-ratio: 4 / 3; background: var(--mat); color: var(--faint) }
img { width: 100%; height: 100%; object-fit: contain; display: block }
figcaption { padding: .7rem .9rem .85rem } .name { font-weight: 600; overflow-wrap: anywhere }
.text { overflow-wrap: anywhere } .small { color: var(--faint); font-size: .86rem }
@media print { body { background: none } li { break-inside: avoid } }
"""


def html_document(title: str, note: str, body: str, style: str = "") -> str:
    """An HTML document, for light and dark mode, with a title, a sentence below it, and a body.

    `title` and `note` are plain text and are escaped here; `body` is HTML, and `style` is CSS added to the default one.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{_STYLE}{style.lstrip()}</style>
</head>
<body>
<h1>{escaped(title)}</h1>
<p class="note">{escaped(note)}</p>
<main>
{body}</main>
</body>
</html>
"""


def data_uri(image: Image.Image) -> str:
    """The image as a data: URL (JPEG), for the `src` of an `img`."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_data_uri(drawing: bytes) -> str:
    """The SVG drawing as a data: URL for the `src` of an `img`, where browsers run no script of it."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()
