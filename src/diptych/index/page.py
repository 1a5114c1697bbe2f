"""A gallery as one HTML file that needs nothing else: pictures embedded, every text escaped, no script."""

from __future__ import annotations

from PIL import Image

from diptych.document import CARDS, document, embedded
from diptych.index.gallery import Card, Gallery, Section, thumbnails
from diptych.paths import from_text
from diptych.quoting import escaped
from diptych.roots import ANYWHERE, Roots


def html_page(gallery: Gallery, size: int = 480, roots: Roots = ANYWHERE) -> str:
    """The page; pictures have at most `size` pixels a side. One that is gone leaves a field that says so."""
    sections = "".join(_section(section, size, roots) for section in gallery.sections)
    return document(gallery.title, gallery.note, sections, CARDS)


def _section(section: Section, size: int, roots: Roots) -> str:
    pictures = thumbnails([card.path for card in section.cards], size, roots)
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
