"""Galleries: sections of image cards, saved as contact sheets or as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import ConfigError, ImageError
from diptych.images.contact_sheet import Tile, image_grid, save_picture
from diptych.images.decode import decode, thumbnail
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, Roots
from diptych.reports.html import CARDS, document, embedded
from diptych.runtime.atomic import write_text
from diptych.runtime.background import prefetch
from diptych.runtime.quoting import escaped
from diptych.search.results import Hit, Results

SHEET, PAGE = (".png", ".jpg", ".jpeg", ".webp"), (".html", ".htm")


@dataclass(frozen=True, slots=True)
class Card:
    """A picture of the index by its `path` there, a heading and some words below it."""

    path: str
    heading: str = ""
    text: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Cards that belong together; the title may be empty."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """What stands on a page: a title, a sentence, and the sections."""

    title: str
    note: str
    sections: tuple[Section, ...]


def gallery_of(results: Results) -> Gallery:
    """The hits of a search, with name, date, size and caption."""
    cards = tuple(card_of(hit) for hit in results)
    note = results.counted if cards else results.message
    return Gallery(results.query, note, (Section("", cards),) if cards else ())


def card_of(hit: Hit) -> Card:
    copies = f"{len(hit.copies)} more cop{'y' if len(hit.copies) == 1 else 'ies'}" if hit.copies else ""
    facts = [f"{hit.taken:%Y-%m-%d}" if hit.taken else "", f"{hit.width} × {hit.height}" if hit.width else ""]
    note = " · ".join(fact for fact in (*facts, hit.camera, copies) if fact)
    return Card(hit.path, from_text(hit.path).name, (hit.caption or "").split("\n")[0], note)


def save_gallery(gallery: Gallery, out: Path, tile_size: int = 240, *, roots: Roots = ANYWHERE) -> list[Path]:
    """Write a page (`.html`) or contact sheets (`.png`, `.jpg`, `.webp`); returns the files.

    Of several sections each has a sheet of its own: `out-1.png`, `out-2.png`. Pictures outside `roots` are not shown.

    Raises:
        ConfigError: the name ends in something else, or the file cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in (*SHEET, *PAGE):
        raise ConfigError(f"'{out}' ends in '{suffix}'; valid: {', '.join((*PAGE, *SHEET))}")
    try:
        if suffix in PAGE:
            write_text(out, html_page(gallery, 2 * tile_size, roots))
            return [out]
        return _save_sheets(gallery, out, tile_size, roots)
    except OSError as error:
        raise ConfigError(f"cannot write '{out}' ({error}); check the folder and its permissions") from error


def thumbnails(paths: Sequence[str], size: int, roots: Roots = ANYWHERE) -> list[Image.Image | None]:
    """Small versions of pictures, decoded in threads; None for one that is gone, broken or outside `roots`."""
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
        pictures = thumbnails([card.path for card in section.cards], tile_size, roots)
        tiles = [
            Tile(picture, card.text or card.note, heading=card.heading, missing="no longer there")
            for card, picture in zip(section.cards, pictures, strict=True)
        ]
        title = section.title or f"{gallery.title}: {gallery.note}"
        files.append(out.with_stem(f"{out.stem}-{number}") if len(sections) > 1 else out)
        save_picture(image_grid(tiles, title=title, tile_size=tile_size), files[-1])
    return files


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
