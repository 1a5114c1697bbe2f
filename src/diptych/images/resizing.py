"""Resizing: thumbnails, averages of large images, the middle of long ones, and the perceptual hash of the whole."""

from __future__ import annotations

import numpy as np
from PIL import Image

MAX_ASPECT = 64
_AVERAGED_PIXELS = 2**24


def averaged(image: Image.Image, min_side: int) -> Image.Image:
    """A large image reduced by averaging, so that callers do not hold it whole while they wait for a model."""
    factor = min(image.size) // (2 * max(1, min_side))
    return image.reduce(factor) if factor > 1 and image.width * image.height > _AVERAGED_PIXELS else image


def central(image: Image.Image) -> Image.Image:
    """The central part of an image whose aspect ratio exceeds `MAX_ASPECT`; any other image as it is.

    Image processors resize the shorter side to the model's and then crop the middle: an image of 4000 x 1 would become
    900,000 x 224 pixels. The crop of the central part is the same.
    """
    short, long = sorted(image.size)
    if long <= MAX_ASPECT * short:
        return image
    odd = (long - MAX_ASPECT * short) % 2 * (short % 2)  # an odd margin would move the middle by half a pixel
    start, length = (long - (MAX_ASPECT - odd) * short) // 2, (MAX_ASPECT - odd) * short
    wide = image.width == long
    return image.crop((start, 0, start + length, short) if wide else (0, start, short, start + length))


def perceptual_hash(image: Image.Image) -> int:
    """64-bit difference hash (dHash): near-duplicates differ in few bits (up to about 6), other images in about 32.

    The image is reduced to 9 x 8 greys; each bit, row by row from the highest, is set if a grey is brighter than its
    left neighbour. Images of one plain colour all hash to 0.

    Source: N. Krawetz, "Kind of Like That" (2013), https://www.hackerfactor.com/blog/?/archives/529-Kind-of-Like-That.html
    """
    greys = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS, reducing_gap=3.0))  # (8, 9)
    return int.from_bytes(np.packbits(greys[:, 1:] > greys[:, :-1]).tobytes(), "big")


def thumbnail(image: Image.Image, size: int) -> Image.Image:
    """A copy whose longer side has at most `size` pixels; the shape is kept and small images are not enlarged."""
    scale = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
