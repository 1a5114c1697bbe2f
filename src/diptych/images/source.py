"""A picture in whatever form a program has it: a path, encoded bytes, a place in a file, or decoded already."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from diptych.images.decode import Picture, Slice, decode

ImageLike = Picture | str | Image.Image
"""A string is a path."""


def decoded(picture: ImageLike, min_side: int | None = None) -> Image.Image:
    """The picture upright and in RGB; one that is decoded already as it is.

    Raises:
        ImageError: it cannot be decoded.
    """
    if isinstance(picture, Image.Image):
        return picture
    return decode(Path(picture).expanduser() if isinstance(picture, str) else picture, min_side=min_side)


def encoded(picture: ImageLike) -> Picture:
    """The picture as a path, a place in a file or bytes; one that is decoded is encoded again, without loss."""
    if isinstance(picture, str):
        return Path(picture).expanduser()
    if not isinstance(picture, Image.Image):
        return picture
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def several(pictures: ImageLike | Iterable[ImageLike] | None) -> list[ImageLike]:
    """None, one picture, or several, as a list."""
    if pictures is None:
        return []
    return [pictures] if isinstance(pictures, str | bytes | Path | Slice | Image.Image) else list(pictures)
