"""Galleries: sections of image cards, saved as one HTML page or as contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import ConfigError, ImageError
from diptych.images.contact_sheet import Tile, image_grid, save_contact_sheet
from diptych.images.decode import decode, thumbnail
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, Roots
from diptych.reports.html import CARDS, data_uri, html_document
from diptych.runtime.atomic import write_text
from diptych.runtime.background import prefetch
from diptych.runtime.quoting import escaped
from diptych.search.results import Hit, Results

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class Card:
    """An image with words below it; all but the path may be empty.

    Attributes:
        path: Its path in an index.
        heading: The name of the image.
        text: Its caption.
        note: Details, smaller.
    """

    path: str
    heading: str = ""
    text: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A group of cards with a title, which may be empty."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The content of a gallery.

    Attributes:
        title: The heading of the page.
        note: A sentence below the title.
        sections: Groups of cards, in order.
    """

    title: str
    note: str
    sections: tuple[Section, ...]


def gallery_of(results: Results) -> Gallery:
    """A gallery of search hits: one section, with name, caption, date, size and camera on each card."""
    cards = tuple(_hit_card(hit) for hit in results)
    note = results.counted if cards else results.message
    return Gallery(results.query, note, (Section("", cards),) if cards else ())


def _hit_card(hit: Hit) -> Card:
    copies = f"{len(hit.copies)} more cop{'y' if len(hit.copies) == 1 else 'ies'}" if hit.copies else ""
    details = [f"{hit.taken:%Y-%m-%d}" if hit.taken else "", f"{hit.width} × {hit.height}" if hit.width else ""]
    note = " · ".join(detail for detail in (*details, hit.camera, copies) if detail)
    return Card(hit.path, from_text(hit.path).name, (hit.caption or "").split("\n")[0], note)


def save_gallery(gallery: Gallery, out: Path, tile_size: int = 240, *, roots: Roots = ANYWHERE) -> list[Path]:
    """Write a gallery as a page (`.html`) or as contact sheets (`.png`, `.jpg`, `.webp`); returns the files written.

    With several sections, each gets a contact sheet of its own: `out-1.png`, `out-2.png`. `tile_size` is the side of an
    image in pixels; pages contain images of twice that size. Images outside `roots` are not shown.

    Raises:
        ConfigError: the suffix is not supported, or a file cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in (*SHEET_SUFFIXES, *PAGE_SUFFIXES):
        valid = ", ".join((*PAGE_SUFFIXES, *SHEET_SUFFIXES))
        raise ConfigError(f"'{out}' has the suffix '{suffix}'; valid: {valid}")
    try:
        if suffix in PAGE_SUFFIXES:
            write_text(out, html_page(gallery, 2 * tile_size, roots))
            return [out]
        return _save_sheets(gallery, out, tile_size, roots)
    except OSError as error:
        raise ConfigError(f"cannot write '{out}' ({error}); check the folder and its permissions") from error


def thumbnails(paths: Sequence[str], size: int, roots: Roots = ANYWHERE) -> list[Image.Image | None]:
    """Thumbnails with sides of at most `size` pixels, decoded in threads.

    None stands for an image that is missing, cannot be decoded, or is outside `roots`.
    """
    return list(prefetch(paths, lambda path: _thumbnail(path, size, roots)))


def _thumbnail(path: str, size: int, roots: Roots) -> Image.Image | None:
    try:
        return thumbnail(decode(read_at(path, roots), min_side=size), size)
    except ImageError:
        return None


def _save_sheets(gallery: Gallery, out: Path, tile_size: int, roots: Roots) -> list[Path]:
    sections = gallery.sections or (Section("", ()),)
    files: list[Path] = []
    for number, section in enumerate(sections, 1):
        images = thumbnails([card.path for card in section.cards], tile_size, roots)
        tiles = [
            Tile(image, card.text or card.note, heading=card.heading, missing="not available")
            for card, image in zip(section.cards, images, strict=True)
        ]
        title = section.title or f"{gallery.title}: {gallery.note}"
        files.append(out.with_stem(f"{out.stem}-{number}") if len(sections) > 1 else out)
        save_contact_sheet(image_grid(tiles, title=title, tile_size=tile_size), files[-1])
    return files


def html_page(gallery: Gallery, size: int = 480, roots: Roots = ANYWHERE) -> str:
    """The gallery as an HTML document with embedded images of at most `size` pixels a side.

    A card whose image cannot be read shows `not available` instead.
    """
    sections = "".join(_section_html(section, size, roots) for section in gallery.sections)
    return html_document(gallery.title, gallery.note, sections, CARDS)


def _section_html(section: Section, size: int, roots: Roots) -> str:
    images = thumbnails([card.path for card in section.cards], size, roots)
    cards = "".join(_card_html(card, image) for card, image in zip(section.cards, images, strict=True))
    title = f"<h2>{escaped(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{title}<ol>\n{cards}</ol>\n</section>\n"


def _card_html(card: Card, image: Image.Image | None) -> str:
    alt = escaped(card.text or card.heading)
    content = f'<img src="{data_uri(image)}" alt="{alt}">' if image else "not available"
    lines = [(style, text) for style, text in (("text", card.text), ("small", card.note)) if text]
    below = "".join(f'<div class="{style}">{escaped(text)}</div>' for style, text in lines)
    return (
        f'<li><a href="{escaped(_link(card.path))}" title="{escaped(card.path)}">'
        f'<figure><div class="mat">{content}</div>'
        f'<figcaption><div class="name">{escaped(card.heading)}</div>{below}</figcaption></figure></a></li>\n'
    )


def _link(path: str) -> str:
    """The file: URL of an image; for an image inside a shard, that of the shard followed by the member's name."""
    return from_text(path).absolute().as_uri()
