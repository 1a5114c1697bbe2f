"""Image inputs: paths, encoded bytes, slices of files and PIL images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from diptych.images.decode import ImageSource, Slice, decode

ImageLike = ImageSource | str | Image.Image
"""A string is a path."""


def decoded(image: ImageLike, min_side: int | None = None) -> Image.Image:
    """The decoded image, upright and in RGB; a PIL image is returned as it is.

    Raises:
        ImageError: it cannot be decoded.
    """
    if isinstance(image, Image.Image):
        return image
    return decode(Path(image).expanduser() if isinstance(image, str) else image, min_side=min_side)


def encoded(image: ImageLike) -> ImageSource:
    """The image as a path, a slice of a file or bytes; a PIL image is encoded as PNG."""
    if isinstance(image, str):
        return Path(image).expanduser()
    if not isinstance(image, Image.Image):
        return image
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def several(images: ImageLike | Iterable[ImageLike] | None) -> list[ImageLike]:
    """None, one image, or several, as a list."""
    if images is None:
        return []
    return [images] if isinstance(images, str | bytes | Path | Slice | Image.Image) else list(images)
