"""Colours: images of every mode as RGB of 8 bits, in the sRGB colour space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from diptych.images.colour_profiles import colour_space, to_srgb
from diptych.images.tiff import GreyValues

_BAND_PIXELS = 2**20
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_GREY = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True, slots=True)
class _Conversion:
    """How the bands of one image become sRGB.

    `low` and `peak` are the greys that become black and white, for types wider than 8 bits; `input_mode` is the mode
    that `transform` takes.
    """

    greys: GreyValues
    inverted_inks: bool
    transparent: int | None
    low: float = 0.0
    peak: float = 0.0
    input_mode: str = "RGB"
    transform: ImageCms.ImageCmsTransform | None = None


def to_rgb(image: Image.Image, greys: GreyValues) -> Image.Image:
    """The image in sRGB without metadata, converted in bands, so that no second copy of a large image is held.

    Transparent parts become white. An embedded colour profile is applied; images without one count as sRGB.
    """
    input_mode, transform = _profile(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = image._new(image.im)  # without copying the pixels
        rgb.info = {}  # or thumbnails would carry the photograph's GPS position
        if transform is not None:
            ImageCms.applyTransform(rgb, transform, inPlace=True)
        return rgb
    conversion = _conversion(image, greys, input_mode, transform)
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        rgb.paste(_band_as_rgb(image.crop(box), conversion), box)
    return rgb


def _profile(image: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a transform to sRGB takes, and the transform; None without a profile that fits the image's mode."""
    profile = image.info.get("icc_profile")
    space = colour_space(profile)
    is_grey = image.mode.startswith(_GREY)
    fits = {"RGB": image.mode not in ("CMYK", "LAB"), "GRAY": is_grey, "CMYK": image.mode == "CMYK"}
    if space is None or not fits[space]:
        return "RGB", None
    return {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space], to_srgb(profile, space)


def _conversion(
    image: Image.Image, greys: GreyValues, input_mode: str, transform: ImageCms.ImageCmsTransform | None
) -> _Conversion:
    transparent = image.info.get("transparency")
    # Pillow treats every CMYK JPEG as Adobe's, which stores inverted inks.
    inverted_inks = image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info
    low, peak = _range(image, greys) if image.mode.startswith(("I", "F")) else (0.0, 0.0)
    is_wide_grey = peak and isinstance(transparent, int)
    return _Conversion(greys, inverted_inks, transparent if is_wide_grey else None, low, peak, input_mode, transform)


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _band_as_rgb(band: Image.Image, conversion: _Conversion) -> Image.Image:
    if conversion.peak:  # I;16, I;16B, I, F: Pillow's own conversion clips at 255
        band = _eight_bits(band, conversion)
    elif conversion.inverted_inks:
        band = ImageChops.invert(band)
    if band.mode in _ALPHA or "transparency" in band.info:
        band = _on_white(band.convert("RGBA"))
    if conversion.transform is None:
        return band.convert("RGB")
    return ImageCms.applyTransform(band.convert(conversion.input_mode), conversion.transform) or band


def _on_white(rgba: Image.Image) -> Image.Image:
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB")


def _range(image: Image.Image, greys: GreyValues) -> tuple[float, float]:
    """The offset to subtract from greys of a type wider than 8 bits, and the value that is white after that.

    If the type does not imply a range, it is the smallest common one that holds the values.
    """
    if image.mode.startswith("I;16"):
        return 0.0, greys.peak
    bands = (_finite(image.crop(box), greys) for box in _bands(image))
    extremes = [(float(band.min()), float(band.max())) for band in bands]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    peak = next((peak for peak in (1.0, 255.0, 65535.0) if low >= 0 and high <= peak), None)
    return (0.0, peak) if peak is not None else (low, (high - low) or 1.0)


def _finite(band: Image.Image, greys: GreyValues) -> NDArray[np.float32]:
    """The values of a band, (height, width); NaN and infinity are 0."""
    values = np.asarray(band)
    if greys.is_unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _eight_bits(band: Image.Image, conversion: _Conversion) -> Image.Image:
    values = _finite(band, conversion.greys)
    scaled = np.rint((values - conversion.low) * (255.0 / conversion.peak)).clip(0, 255).astype(np.uint8)
    if conversion.greys.white_is_zero:
        scaled = 255 - scaled
    if conversion.transparent is not None:
        scaled[values == conversion.transparent] = 255
    return Image.fromarray(scaled)
