"""Image inputs: paths, encoded bytes, slices of files and PIL images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from diptych.images.decode import Picture, Slice, decode

ImageLike = Picture | str | Image.Image
"""A string is a path."""


def decoded(picture: ImageLike, min_side: int | None = None) -> Image.Image:
    """The decoded image, upright and in RGB; a PIL image is returned as it is.

    Raises:
        ImageError: it cannot be decoded.
    """
    if isinstance(picture, Image.Image):
        return picture
    return decode(Path(picture).expanduser() if isinstance(picture, str) else picture, min_side=min_side)


def encoded(picture: ImageLike) -> Picture:
    """The image as a path, a slice of a file or bytes; a PIL image is encoded as PNG."""
    if isinstance(picture, str):
        return Path(picture).expanduser()
    if not isinstance(picture, Image.Image):
        return picture
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def several(pictures: ImageLike | Iterable[ImageLike] | None) -> list[ImageLike]:
    """None, one image, or several, as a list."""
    if pictures is None:
        return []
    return [pictures] if isinstance(pictures, str | bytes | Path | Slice | Image.Image) else list(pictures)
