"""The image formats that are decoded, and opening an image without decoding it."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from diptych.images.headers import check_structure, png_profile, without_texts
from diptych.images.tiff import mend_tiles

# Pillow opens some 45 formats, among them ones that run Ghostscript (EPS) or had many vulnerabilities (PSD, FLI).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")

# What Pillow's decoders were seen to raise on damaged or hostile bytes. Programming errors (NameError, ImportError)
# are not among them.
DECODER_ERRORS = (
    OSError,  # UnidentifiedImageError, broken streams, libjpeg, libtiff and zlib codes
    SyntaxError,  # raised by Pillow for "not this format"
    ValueError,  # bad sizes and values, PNG text bombs, undecodable text
    TypeError,
    AttributeError,
    LookupError,  # IndexError and KeyError: truncated tables and tags
    EOFError,
    ArithmeticError,  # OverflowError, ZeroDivisionError: invalid sizes and resolutions
    AssertionError,
    RuntimeError,  # pillow-heif, recursion in nested directories
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where the process turns warnings into errors
)


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that can be decoded; HEIF is among them if pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        __import__("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def open_lazily(data: bytes) -> Image.Image:
    """`Image.open` for the allowed formats only: reads size and metadata, and pixels when they are first used.

    `Image.open` also warns and refuses by `Image.MAX_IMAGE_PIXELS`, which is global to the process, and warnings cannot
    be silenced in one thread. So this uses Pillow's registry itself, and `decode` applies its own limit.

    Raises:
        CostlyError: the structure costs too much to read.
        one of `DECODER_ERRORS`: the bytes are not of an allowed format.
    """
    check_structure(data)
    profile = png_profile(data)
    data = without_texts(data)
    last_error: SyntaxError | None = None
    for name in formats():
        factory, accept = Image.OPEN[name]
        if name == "JPEG":
            factory = JpegImagePlugin.JpegImageFile  # its first image, without reading an index of further ones
        if accept is None or accept(data[:16]) is True:  # a string means that the format is known but not built in
            try:
                image = factory(io.BytesIO(data), "")
            except SyntaxError as error:
                last_error = error
            else:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    mend_tiles(image)
                if profile is not None:
                    image.info["icc_profile"] = profile
                return image
    raise last_error or SyntaxError("unrecognized file format")
