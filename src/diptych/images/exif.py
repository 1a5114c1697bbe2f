"""EXIF metadata of an image: upright size, date, camera and coordinates."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from diptych.images.formats import DECODER_ERRORS, open_lazily

MAX_EXIF_BYTES = 2**20

_TAKEN = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized)
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """The size of an upright image in pixels, and its EXIF metadata.

    `taken` is the camera's local time, without a zone; coordinates are degrees, north and east positive. A value is
    None if it is missing or implausible (a date of zeros, a latitude of 200, both coordinates exactly 0).
    """

    width: int
    height: int
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_image_metadata(data: bytes) -> ImageMetadata:
    """The metadata of an encoded image, read from its header; damaged EXIF counts as none.

    Raises:
        one of `DECODER_ERRORS`: the data are not an image. Decode them first.
    """
    image = open_lazily(data)
    width, height = image.size if orientation(image) not in _SIDEWAYS else image.size[::-1]
    with contextlib.suppress(*DECODER_ERRORS):
        if len(image.info.get("exif") or b"") <= MAX_EXIF_BYTES:
            return _metadata(image.getexif(), width, height)
    return ImageMetadata(width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if the file has none that can be read."""
    with contextlib.suppress(*DECODER_ERRORS):  # damaged EXIF: leave the pixels as they are
        if len(image.info.get("exif") or b"") <= MAX_EXIF_BYTES:
            value = image.getexif().get(ExifTags.Base.Orientation)
            return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _metadata(exif: Image.Exif, width: int, height: int) -> ImageMetadata:
    details: dict[int, object] = {}
    place: dict[int, Any] = {}
    with contextlib.suppress(*DECODER_ERRORS):
        details = exif.get_ifd(ExifTags.IFD.Exif)
    with contextlib.suppress(*DECODER_ERRORS):
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    taken = next((date for tag in _TAKEN if (date := _date(details.get(tag)))), None)
    camera = _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model))
    return ImageMetadata(width, height, taken, camera, *_coordinates(place))


def _date(value: object) -> datetime | None:
    """Parse `2019:07:04 12:30:05`, also with the other separators that some programs write."""
    numbers = re.match(r"(\d{4})\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)(?:\D(\d\d))?", _text(value))
    with contextlib.suppress(ValueError):
        if numbers:
            year, month, day, hour, minute, second = (int(number or 0) for number in numbers.groups())
            return datetime(year, month, day, hour, minute, second)
    return None


def _camera(make: object, model: object) -> str | None:
    """Make and model, without the make if the model begins with it: `Canon EOS 5D`, `NIKON D70`."""
    maker, name = _text(make), _text(model)
    brand = maker.split(" ")[0]
    return (name if name.lower().startswith(brand.lower()) else f"{maker} {name}".strip()) or None


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    return " ".join(re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", " ", value).split())[:200]


def _coordinates(place: dict[int, Any]) -> tuple[float | None, float | None]:
    tags = ExifTags.GPS
    latitude = _degrees(place.get(tags.GPSLatitude), place.get(tags.GPSLatitudeRef), "S", 90)
    longitude = _degrees(place.get(tags.GPSLongitude), place.get(tags.GPSLongitudeRef), "W", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None
    return latitude, longitude


def _degrees(parts: Any, reference: Any, negative: str, limit: int) -> float | None:
    """Degrees, minutes and seconds as decimal degrees; None if they are not valid."""
    with contextlib.suppress(*DECODER_ERRORS):
        degrees, minutes, seconds = (float(part) for part in (*parts, 0, 0)[:3])
        value = degrees + minutes / 60 + seconds / 3600
        if math.isfinite(value) and abs(value) <= limit:
            return -value if _text(reference).upper() == negative else value
    return None
