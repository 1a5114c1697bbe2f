"""Decoding of images: upright, in sRGB, within limits of bytes, pixels and memory, and JPEGs at reduced scale."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from diptych.errors import ImageError
from diptych.images.av1 import coded_pixels
from diptych.images.colour import to_rgb
from diptych.images.costs import CostlyError
from diptych.images.decode_memory import LIMIT, DecodeMemory
from diptych.images.exif import orientation
from diptych.images.formats import DECODER_ERRORS, formats, open_lazily
from diptych.images.image_bytes import (
    MAX_BYTES,
    MAX_UPLOAD_BYTES,
    ImageSource,
    Slice,
    content_hash,
    describe,
    read_bytes,
    readable_text,
    size_of,
)
from diptych.images.jpeg import jpeg_frame, load_cut_short
from diptych.images.resizing import MAX_ASPECT, averaged, central, perceptual_hash, thumbnail
from diptych.images.tiff import grey_values, tiff_cost

__all__ = [
    "DECODER_ERRORS",
    "DECODE_MEMORY",
    "MAX_ASPECT",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_UPLOAD_BYTES",
    "ImageSource",
    "Slice",
    "central",
    "content_hash",
    "decode",
    "describe",
    "formats",
    "memory_for",
    "open_lazily",
    "orientation",
    "perceptual_hash",
    "read_bytes",
    "readable_text",
    "thumbnail",
]

MAX_PIXELS = 250_000_000
"""Largest image that is decoded. Phones take 200 megapixels, medium-format cameras 150."""
MAX_PIXEL_BYTES = 10
"""Peak bytes of decoding for each pixel of a lower limit; at most 1 GiB, which `DECODE_MEMORY` has."""
_REDUCED_PIXELS = 5
"""How many times more pixels a JPEG of reduced size may have: they are read, but not decoded."""
_LEAST_PIXELS = 2**20  # the memory limit is not applied below it

DECODE_MEMORY = DecodeMemory()
"""The memory budget of all decodes in the process: requests, index workers and the web page."""


def decode(source: ImageSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decode an image: upright by its EXIF orientation, in RGB, without metadata; the first frame of an animation.

    Transparent parts become white, wider greys are scaled to 8 bits, and colours of an embedded profile become sRGB. A
    JPEG that lacks at most a tenth of its rows is read with grey in their place.

    With `min_side`, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size as long as the shorter side keeps at least
    `min_side` pixels, which is several times faster for large photographs. Other images of more than 16 megapixels are
    reduced after decoding, to at least twice `min_side`.

    The cost of decoding is read from the headers and checked before any pixel is decoded: pixels (of a JPEG after its
    reduction, of tiles with their padding), memory, scans of a JPEG, and the structure of the file. All threads share
    `DECODE_MEMORY`. Safe to call from many threads.

    Raises:
        ImageError: as `read_bytes`, and `too_many_pixels` (more than `max_pixels`), `truncated` or `undecodable`.
    """
    name = describe(source)
    with memory_for(source):
        data = read_bytes(source)
        try:
            return _decoded(data, name, max_pixels, min_side)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(
                "too_many_pixels", f"{name} is larger than Pillow decodes ({error}); save a smaller copy of it"
            ) from error
        except CostlyError as error:
            raise ImageError("undecodable", f"{name} is too costly to decode: {error}") from error
        except DECODER_ERRORS as error:
            if _is_truncated(data, error):
                raise ImageError("truncated", f"{name} is cut short ({error}); fetch it again") from error
            raise ImageError(
                "undecodable", f"{name} cannot be decoded as an image ({error}); supported: {', '.join(formats())}"
            ) from error


@contextmanager
def memory_for(source: ImageSource) -> Iterator[None]:
    """Wait for the memory to read an image: a file of more than 64 MiB is read while no other large one is decoded."""
    if size_of(source) <= MAX_UPLOAD_BYTES or isinstance(source, bytes):
        yield
        return
    with DECODE_MEMORY.hold(LIMIT):
        yield


def _decoded(data: bytes, name: str, max_pixels: int, min_side: int | None) -> Image.Image:
    image = open_lazily(data)
    width, height = image.size
    if min_side is not None:
        image.draft(None, (min_side, min_side))  # does nothing unless it is a JPEG
    pixels, size = _cost(data, image)
    if pixels > max_pixels:
        decoded = "" if pixels == width * height else f", and {pixels:,} are decoded for them"
        raise ImageError(
            "too_many_pixels",
            f"{name} has {width} x {height} = {width * height:,} pixels{decoded}, the limit is {max_pixels:,}; "
            "save a smaller copy of it",
        )
    most = min(max(max_pixels, _LEAST_PIXELS) * MAX_PIXEL_BYTES, LIMIT)
    if size > most:
        raise ImageError(
            "too_many_pixels",
            f"{name} has {width} x {height} pixels, which take {size:,} bytes to decode as {image.format}, the "
            f"limit is {most:,}; save a smaller copy of it, or one as JPEG",
        )
    with DECODE_MEMORY.hold(size):
        greys = grey_values(image)
        image = to_rgb(_upright(_loaded(data, image, min_side)), greys)
        return averaged(image, min_side) if min_side and data[:2] != b"\xff\xd8" else image


def _loaded(data: bytes, image: Image.Image, min_side: int | None) -> Image.Image:
    """The image with its pixels; a JPEG may lack a few."""
    try:
        image.load()
    except OSError:
        mended = load_cut_short(data, min_side) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
        if mended is None:
            raise
        return mended
    return image


# Bytes per pixel that the decoders of Pillow 13 hold beside the decoded image, as measured by
# benchmarks/hostile_pictures.py.
_DECODER_BYTES = {"WEBP": 12, "AVIF": 6, "HEIF": 6}
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}


def _cost(data: bytes, image: Image.Image) -> tuple[int, int]:
    """The pixels that will be decoded, and the peak bytes; `image` is opened and drafted."""
    shown = image.width * image.height
    pixels, extra = shown, 0
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        frame = jpeg_frame(data)
        pixels = max(shown, frame.width * frame.height // _REDUCED_PIXELS)
        extra = frame.coefficient_bytes
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        pixels, extra = tiff_cost(data, image)
    elif image.format in _DECODER_BYTES:
        pixels = coded_pixels(data, *image.size) if image.format == "AVIF" else shown  # libheif checks its own
        extra = pixels * _DECODER_BYTES[image.format]
    own = 0 if image.mode == "RGB" else _MODE_BYTES.get(image.mode, 4)
    file = len(data) if len(data) > MAX_UPLOAD_BYTES else 0
    return pixels, file + extra + (own + 4) * shown


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


# Texts of those errors that mean truncated data; Pillow has no type for it.
_ENDED_EARLY = ("truncated", "bytes for unpacking", "requires a buffer", "incomplete", "no more images", "but only got")


def _is_truncated(data: bytes, error: BaseException) -> bool:
    if data[:4] == b"RIFF" and len(data) >= 8:  # libwebp does not report why it failed; the header has the length
        return len(data) < struct.unpack_from("<I", data, 4)[0] + 8
    return isinstance(error, EOFError) or any(words in str(error).lower() for words in _ENDED_EARLY)
