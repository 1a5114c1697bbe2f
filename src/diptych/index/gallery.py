"""Pictures to look at: what was found as sections of cards, saved as contact sheets or as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diptych.atomic import write_text
from diptych.errors import ConfigError, ImageError
from diptych.grids import Tile, picture_grid, save_picture
from diptych.images import decode, thumbnail
from diptych.index.results import Hit, Results
from diptych.paths import from_text, read_at
from diptych.prefetch import prefetch
from diptych.roots import ANYWHERE, Roots

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
            from diptych.index.page import html_page

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
        save_picture(picture_grid(tiles, title=title, tile_size=tile_size), files[-1])
    return files
