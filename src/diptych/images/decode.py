"""Decoding of images: upright, in RGB, within limits of bytes, pixels and memory, and JPEGs at reduced scale."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, JpegImagePlugin, TiffImagePlugin

from diptych.errors import ImageError, NextStep
from diptych.images.decode_memory import DecodeMemory
from diptych.images.headers import CostlyError, check_strips, check_structure, coded_pixels, jpeg_frame, without_texts

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
MAX_PIXEL_BYTES = 10
"""Peak bytes of decoding, for each pixel of the limit: a progressive JPEG takes 10, a WebP 16."""
MAX_ASPECT = 64
MAX_EXIF_BYTES = 2**20

DECODE_MEMORY = DecodeMemory()
"""The memory budget of all decodes in the process: requests, index workers and the web page."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif"}
)

# Pillow opens some 45 formats, among them ones that run Ghostscript (EPS) or had many vulnerabilities (PSD, FLI).
_RAISE_LIMIT = NextStep("or raise the limit", "max_pixels")
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

# Texts of those errors that mean truncated data; Pillow has no type for it.
_ENDED_EARLY = ("truncated", "bytes for unpacking", "requires a buffer", "incomplete", "no more images", "but only got")


@dataclass(frozen=True, slots=True)
class Slice:
    """An image inside a larger file, such as a tar shard: `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int


ImageSource = Path | Slice | bytes


def describe(source: ImageSource) -> str:
    """The name of an image in messages."""
    if isinstance(source, Slice):
        return f"'{readable_text(str(source.path))}' (bytes {source.offset} to {source.offset + source.size})"
    return f"a picture of {len(source):,} bytes" if isinstance(source, bytes) else f"'{readable_text(str(source))}'"


def readable_text(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 are written as escapes such as `\\xe9`."""
    try:
        name.encode()
    except UnicodeEncodeError:  # lone surrogates, from such bytes in Python, or from JSON or Windows
        try:
            return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            return name.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
    return name


_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")  # what `readable_text` writes


def read_bytes(source: ImageSource, max_bytes: int = MAX_BYTES) -> bytes:
    """The encoded bytes of an image.

    Raises:
        ImageError: `missing`, `empty`, `too_many_bytes`, `truncated` (a slice that ends beyond its file) or
            `unreadable` (a directory, a pipe, no permission).
    """
    name = describe(source)
    if isinstance(source, bytes):
        data, size = source, len(source)
    else:
        path, offset = (source.path, source.offset) if isinstance(source, Slice) else (source, 0)
        try:
            status = path.stat()  # before opening: opening a pipe would wait for a writer
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", f"{name} is not a regular file; give the path of a picture")
            size = source.size if isinstance(source, Slice) else status.st_size
            with path.open("rb") as file:
                file.seek(offset)
                most = min(size, max_bytes)  # `read` allocates as much as it is asked for, whatever the file's size
                data = file.read(most if isinstance(source, Slice) else most + 1)
        except FileNotFoundError:
            if any(map(_ESCAPED.search, path.parts)):
                raise ImageError("missing", f"{name} has a name that is not UTF-8; rename the file") from None
            raise ImageError(
                "missing", f"{name} does not exist; check the path, or the folder given as images"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, a negative offset
            raise ImageError(
                "unreadable", f"{name} cannot be read ({error}); check its path and permissions"
            ) from error
    if max(size, len(data)) > max_bytes:
        raise ImageError("too_many_bytes", f"{name} has {size:,} bytes, the limit is {max_bytes:,}; shrink it")
    if not data:
        raise ImageError("empty", f"{name} is empty; fetch it again or remove it")
    if len(data) < size:
        raise ImageError("truncated", f"{name} ends after {len(data):,} of {size:,} bytes; fetch the file again")
    return data


def decode(source: ImageSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decode an image: upright by its EXIF orientation, in RGB, without metadata; the first frame of an animation.

    Transparent parts become white; 16-bit greys are scaled to 8 bits. With `min_side`, a JPEG is decoded at 1/2, 1/4 or
    1/8 of its size as long as the shorter side keeps at least `min_side` pixels, which is several times faster for
    large photographs. Other images of more than 16 megapixels are reduced after decoding, to at least twice `min_side`.

    The cost of decoding is read from the headers and checked before any pixel is decoded: pixels (of a JPEG after its
    reduction, of tiles with their padding), memory, scans of a JPEG, and the structure of the file. All threads share
    `DECODE_MEMORY`. Safe to call from many threads.

    Raises:
        ImageError: as `read_bytes`, and `too_many_pixels` (more than `max_pixels`), `truncated` or `undecodable`.
    """
    data = read_bytes(source)
    name = describe(source)
    try:
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
                "shrink it",
                steps=[_RAISE_LIMIT],
            )
        if size > (most := max(max_pixels, _LEAST_PIXELS) * MAX_PIXEL_BYTES):
            raise ImageError(
                "too_many_pixels",
                f"{name} has {width} x {height} pixels, which take {size:,} bytes to decode as {image.format}, the "
                f"limit is {most:,}; save it as PNG or shrink it",
                steps=[_RAISE_LIMIT],
            )
        with DECODE_MEMORY.hold(size):
            image.load()
            image = _rgb(_upright(image))
            return _averaged(image, min_side) if min_side and data[:2] != b"\xff\xd8" else image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"{name} is larger than Pillow decodes ({error}); shrink it") from error
    except CostlyError as error:
        raise ImageError("undecodable", f"{name} costs too much to decode: {error}") from error
    except DECODER_ERRORS as error:
        if _is_truncated(data, error):
            raise ImageError("truncated", f"{name} is cut short ({error}); fetch it again") from error
        raise ImageError(
            "undecodable", f"{name} is not a picture that can be decoded ({error}); valid: {', '.join(formats())}"
        ) from error


_DRAFT_PIXELS = 4  # factor of the pixel limit for JPEGs that are decoded at reduced size

# Bytes per pixel that the decoders of Pillow 13 hold beside the decoded image, as measured by
# benchmarks/hostile_pictures.py.
_DECODER_BYTES = {"WEBP": 12, "AVIF": 6, "HEIF": 6}
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}


def _cost(data: bytes, image: Image.Image) -> tuple[int, int]:
    """The pixels that will be decoded, and the peak bytes; `image` is opened and drafted."""
    shown = image.width * image.height
    pixels, extra = shown, 0
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        width, height, components, holds_coefficients = jpeg_frame(data)
        whole = width * height
        # Coefficients cover the whole image, whatever the reduction; a reduced scan still reads every block.
        pixels = max(shown, whole if holds_coefficients else whole // _DRAFT_PIXELS)
        extra = 2 * components * whole if holds_coefficients else 0
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        pixels, extra = _tiff_cost(data, image)
    elif image.format in _DECODER_BYTES:
        pixels = coded_pixels(data, *image.size) if image.format == "AVIF" else shown  # libheif checks its own
        extra = pixels * _DECODER_BYTES[image.format]
    own = 0 if image.mode == "RGB" else _MODE_BYTES.get(image.mode, 4)
    return pixels, extra + (own + 4) * shown


def _tiff_cost(data: bytes, image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """The pixels of all tiles or strips, padding included, and the bytes of one of them."""
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    tiled = TiffImagePlugin.TILEOFFSETS in tags
    if tiled:
        width, height = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
    else:
        width, height = image.width, min(image.height, tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height))
    width, height = max(1, width), max(1, height)  # a TypeError for what is no number
    if tags.get(TiffImagePlugin.COMPRESSION) in (6, 7):
        places = (324, 325) if tiled else (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS)
        offsets, sizes = (tags.get(tag, ()) for tag in places)
        check_strips(data, offsets, sizes, width * height)
    columns, rows = -(-image.width // width), -(-image.height // height)
    samples = max(len(bits), tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    coded = columns * rows * width * height if tiled else image.width * image.height
    return coded, width * height * samples * max(bits) // 8


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
    data = without_texts(data)
    last_error: SyntaxError | None = None
    for name in formats():
        factory, accept = Image.OPEN[name]
        if name == "JPEG":
            factory = JpegImagePlugin.JpegImageFile  # its first image, without reading an index of further ones
        if accept is None or accept(data[:16]) is True:  # a string means that the format is known but not built in
            try:
                return factory(io.BytesIO(data), "")
            except SyntaxError as error:
                last_error = error
    raise last_error or SyntaxError("its first bytes are of no known format")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if the file has none that can be read."""
    with contextlib.suppress(*DECODER_ERRORS):  # damaged EXIF: leave the pixels as they are
        if len(image.info.get("exif") or b"") <= MAX_EXIF_BYTES:
            value = image.getexif().get(ExifTags.Base.Orientation)
            return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


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


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, converted in bands, so that no second copy of a large image is held."""
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = image._new(image.im)  # without copying the pixels
        rgb.info = {}  # or thumbnails would carry the photograph's GPS position
        return rgb
    scale = _scale(image) if image.mode.startswith(("I", "F")) else None
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        rgb.paste(_rgb_band(image.crop(box), scale, image.format), box)
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


_BAND_PIXELS = 2**20
_LEAST_PIXELS = 2**20  # the memory limit is not applied below it


def _rgb_band(image: Image.Image, scale: tuple[float, float] | None, format: str | None) -> Image.Image:
    if scale is not None:  # I;16, I;16B, I, F: Pillow's own conversion clips at 255
        image = Image.fromarray(_eight_bits(np.asarray(image), *scale))
    elif image.mode == "CMYK" and format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow treats every CMYK JPEG as Adobe's, which stores inverted inks
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() == (255, 255):
            return rgba.convert("RGB")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image.convert("RGB")


def _scale(image: Image.Image) -> tuple[float, float]:
    """The offset to subtract from greys of a type wider than 8 bits, and the value that is white after that.

    If the type does not imply a range, it is the smallest common one that holds the values.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    bands = (_finite(np.asarray(image.crop(box))) for box in _bands(image))
    extremes = [(float(band.min()), float(band.max())) for band in bands]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    peak = next((peak for peak in (1.0, 255.0, 65535.0) if low >= 0 and high <= peak), None)
    return (0.0, peak) if peak is not None else (low, (high - low) or 1.0)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _eight_bits(values: np.ndarray, low: float, peak: float) -> np.ndarray:
    return np.rint((_finite(values) - low) * (255.0 / peak)).astype(np.uint8)


def _averaged(image: Image.Image, min_side: int) -> Image.Image:
    """A large image reduced by averaging, so that callers do not hold it whole while they wait for a model."""
    factor = min(image.size) // (2 * max(1, min_side))
    return image.reduce(factor) if factor > 1 and image.width * image.height > _AVERAGED_PIXELS else image


_AVERAGED_PIXELS = 2**24


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


def _is_truncated(data: bytes, error: BaseException) -> bool:
    if data[:4] == b"RIFF" and len(data) >= 8:  # libwebp does not report why it failed; the header has the length
        return len(data) < struct.unpack_from("<I", data, 4)[0] + 8
    return isinstance(error, EOFError) or any(words in str(error).lower() for words in _ENDED_EARLY)


def content_hash(data: bytes) -> str:
    """A hash of the bytes: 128-bit BLAKE2b, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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
