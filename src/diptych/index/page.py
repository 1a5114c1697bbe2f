"""A gallery as one HTML file that needs nothing else: pictures embedded, every text escaped, no script."""

from __future__ import annotations

from PIL import Image

from diptych.document import document, embedded, escaped
from diptych.index.gallery import Card, Gallery, Section, thumbnails
from diptych.index.paths import from_text

# Cards with a picture each; other pages lay out theirs alike.
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


def html_page(gallery: Gallery, size: int = 480) -> str:
    """The page; pictures have at most `size` pixels a side. One that is gone leaves a field that says so."""
    sections = "".join(_section(section, size) for section in gallery.sections)
    return document(gallery.title, gallery.note, sections, CARDS)


def _section(section: Section, size: int) -> str:
    pictures = thumbnails([card.path for card in section.cards], size)
    cards = "".join(_card(card, picture) for card, picture in zip(section.cards, pictures, strict=True))
    title = f"<h2>{escaped(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{title}<ol>\n{cards}</ol>\n</section>\n"


def _card(card: Card, picture: Image.Image | None) -> str:
    alt = escaped(card.text or card.heading)
    shown = f'<img src="{embedded(picture)}" alt="{alt}">' if picture else "no longer there"
    words = [(name, text) for name, text in (("text", card.text), ("small", card.note)) if text]
    below = "".join(f'<div class="{name}">{escaped(text)}</div>' for name, text in words)
    return (
        f'<li><a href="{escaped(_link(card.path))}" title="{escaped(card.path)}">'
        f'<figure><div class="mat">{shown}</div>'
        f'<figcaption><div class="name">{escaped(card.heading)}</div>{below}</figcaption></figure></a></li>\n'
    )


def _link(path: str) -> str:
    """The file's address; of a picture inside a shard, the shard's name with what is in it."""
    return from_text(path).absolute().as_uri()
