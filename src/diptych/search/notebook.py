"""Notebook display of images: an HTML grid of thumbnails with headings and captions that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.data.containers import read_at
from diptych.errors import DataError
from diptych.images.decode import decode, thumbnail
from diptych.images.roots import Roots
from diptych.runtime.background import prefetch
from diptych.runtime.quoting import escaped

MAX_TILES = 24
"""Images that are shown: at 160 pixels and JPEG quality 80, some 8 KB each."""
SIDE = 160
_MAX_CAPTION = 120  # characters

_TILE = f"width:{SIDE + 12}px;margin:4px;padding:5px;border:1px solid #ddd;border-radius:6px;box-sizing:border-box"
_FRAME = f"height:{SIDE}px;display:flex;align-items:center;justify-content:center"
_NAME = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:#777"


@dataclass(frozen=True, slots=True)
class Tile:
    """An image by its path in an index, with a heading and a caption."""

    path: str
    heading: str
    caption: str = ""


def grid_html(title: str, tiles: Sequence[Tile], note: str, readable: Roots | None) -> str:
    """A title, a grid of the first `MAX_TILES` tiles, and a note. All text is escaped.

    Images are read only inside `readable`, or nowhere if it is None. A tile whose image cannot be read says so.
    """
    shown = tiles[:MAX_TILES]
    images = prefetch(shown, lambda tile: _thumbnail(tile.path, readable))
    grid = "".join(_tile_html(tile, image) for tile, image in zip(shown, images, strict=True))
    more = f"<div>and {len(tiles) - len(shown)} more</div>" if len(tiles) > len(shown) else ""
    return (
        f'<div style="font:12px/1.4 sans-serif"><b>{escaped(title)}</b>'
        f'<div style="display:flex;flex-wrap:wrap;margin:4px -4px">{grid}</div>{more}'
        f'<div style="color:#777">{escaped(note)}</div></div>'
    )


def _tile_html(tile: Tile, image: str | None) -> str:
    name = escaped(tile.path.rpartition("/")[2])
    caption = tile.caption if len(tile.caption) <= _MAX_CAPTION else f"{tile.caption[: _MAX_CAPTION - 1]}…"
    figure = (
        f'<img src="data:image/jpeg;base64,{image}" alt="{escaped(caption) or name}">'
        if image
        else '<span style="color:#999">no image</span>'
    )
    return (
        f'<div style="{_TILE}" title="{escaped(tile.path)}"><div style="{_FRAME}">{figure}</div>'
        f'<div>{escaped(tile.heading)}</div><div style="{_NAME}">{name}</div><div>{escaped(caption)}</div></div>'
    )


def _thumbnail(path: str, readable: Roots | None) -> str | None:
    """A JPEG in base64 whose longer side has at most `SIDE` pixels; None where the image cannot be read."""
    if readable is None:
        return None
    try:
        image = thumbnail(decode(read_at(path, readable), min_side=SIDE), SIDE)
    except DataError:  # gone, broken, or outside the folders that may be read
        return None
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
