"""Colours: every mode, format and profile gives the pixels that LittleCMS and arithmetic say."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from benchmarks.hostile_pictures import png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from diptych.images.colour_profiles import colour_space, to_srgb
from diptych.images.decode import decode, formats
from diptych.images.headers import MAX_PROFILE_BYTES, png_profile
from tests.images.profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, cmyk_profile, grey_profile, rgb_profile

RGB = {name: rgb_profile(*values) for name, values in (("Adobe", ADOBE_RGB), ("P3", DISPLAY_P3), ("Pro", PROPHOTO))}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def patches() -> Image.Image:
    """Patches of 16 pixels in strong, dull and neutral colours."""
    colours = [(200, 30, 40), (30, 180, 60), (40, 60, 200), (180, 150, 120), (128, 128, 128), (250, 250, 250)]
    small = Image.fromarray(np.array([colours, colours[::-1]], np.uint8))
    return small.resize((96, 32), Image.Resampling.NEAREST)


def reference(image: Image.Image, profile: bytes) -> NDArray[np.int64]:
    """The sRGB values of an image with a profile, by LittleCMS."""
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return np.asarray(converted, int)


def centres(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The middle of each patch, away from the edges that JPEG and chroma subsampling blur."""
    return values[8::16, 8::16]


# Profiles


@pytest.mark.parametrize("profile", RGB)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_a_colour_profile_is_applied_in_every_format_that_has_one(format: str, profile: str) -> None:
    if format not in formats():
        pytest.skip(f"{format} is not built in")
    options = {"JPEG": {"quality": 97, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {"quality": 97})
    data = encoded(patches(), format, icc_profile=RGB[profile], **options)
    plain = np.asarray(decode(encoded(patches(), format, **options)), int)
    expected = reference(Image.fromarray(plain.astype(np.uint8)), RGB[profile])
    assert np.abs(centres(np.asarray(decode(data), int)) - centres(expected)).max() <= 3
    assert np.abs(centres(expected) - centres(plain)).max() > 15  # the profile makes a difference


@pytest.mark.parametrize("profile", RGB)
@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1"])
def test_a_colour_profile_is_applied_in_every_mode(mode: str, profile: str) -> None:
    image = patches().convert("RGB").quantize(16) if mode == "P" else patches().convert(mode)
    decoded = decode(encoded(image, "PNG", icc_profile=RGB[profile]))
    assert np.abs(np.asarray(decoded, int) - reference(image.convert("RGB"), RGB[profile])).max() <= 1


def test_a_reduced_photograph_has_the_colours_of_its_profile() -> None:
    data = encoded(patches().resize((960, 320)), "JPEG", quality=97, subsampling=0, icc_profile=RGB["P3"])
    small = np.asarray(decode(data, min_side=40).resize((96, 32)), int)
    assert np.abs(centres(small) - centres(reference(patches(), RGB["P3"]))).max() <= 6


@pytest.mark.parametrize("gamma", [1.0, 1.8])
@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_is_applied(mode: str, gamma: float) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(8, 0)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    decoded = decode(encoded(image, "PNG", icc_profile=grey_profile(gamma)))
    assert np.abs(np.asarray(decoded, int) - reference(Image.fromarray(ramp), grey_profile(gamma))).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_a_profile_of_inks_is_applied(format: str) -> None:
    inks = Image.merge("CMYK", [*ImageOps.invert(patches()).split(), Image.new("L", patches().size, 20)])
    options = {"quality": 97, "subsampling": 0} if format == "JPEG" else {}
    decoded = np.asarray(decode(encoded(inks, format, icc_profile=cmyk_profile(), **options)), int)
    assert np.abs(centres(decoded) - centres(reference(inks, cmyk_profile()))).max() <= 6


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("RGB", grey_profile(1.0)), ("RGB", cmyk_profile()), ("L", cmyk_profile()), ("CMYK", RGB["P3"])],
)
def test_a_profile_of_other_channels_than_the_image_has_is_ignored(mode: str, profile: bytes) -> None:
    image = patches().convert(mode)
    with_it, without = (decode(encoded(image, "TIFF", **extra)) for extra in ({"icc_profile": profile}, {}))
    assert with_it.tobytes() == without.tobytes()


def test_images_in_srgb_and_without_a_profile_are_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert colour_space(SRGB) == "RGB"
    assert to_srgb(SRGB, "RGB") is None
    monkeypatch.setattr(ImageCms, "applyTransform", lambda *_: pytest.fail("the colours were converted"))
    for options in ({"icc_profile": SRGB}, {}):
        assert decode(encoded(patches(), "PNG", **options)).tobytes() == patches().tobytes()


def test_a_profile_is_parsed_once_for_all_images_that_have_it() -> None:
    data = encoded(patches(), "JPEG", icc_profile=RGB["Adobe"])
    decode(data)
    began = to_srgb.cache_info()
    for _ in range(5):
        decode(data)
    assert to_srgb.cache_info().misses == began.misses


def test_many_threads_share_a_transform() -> None:
    data = encoded(patches(), "PNG", icc_profile=RGB["Pro"])
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: decode(data).tobytes(), range(64)))) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 451), st.integers(0, 255)), max_size=12), st.integers(0, 452))
def test_a_damaged_profile_does_not_cost_the_picture(changes: list[tuple[int, int]], end: int) -> None:
    profile = bytearray(RGB["P3"])
    for offset, value in changes:
        profile[offset] = value
    for damaged in (bytes(profile), bytes(profile[:end])):
        assert decode(encoded(patches(), "TIFF", icc_profile=damaged)).size == (96, 32)


# Metadata of PNGs, which Pillow refuses or unpacks whatever their size


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    place = data.index(b"IDAT") - 4
    return data[:place] + png_chunk(kind, body) + data[place:]


def packed(size: int) -> bytes:
    import zlib

    return zlib.compress(bytes(size))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"workflow\0\0" + packed(50 << 20)),
        (b"iTXt", b"workflow\0\1\0\0\0" + packed(50 << 20)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed(50 << 20)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * (70 << 20)),
        (b"tEXt", b"prompt\0" + b"x" * (70 << 20)),
        (b"iCCP", b"profile\0\0" + packed(50 << 20)),
        (b"iCCP", b"profile\0\0not deflated"),
        (b"iCCP", b"no end of the name"),
    ],
    ids=["zTXt", "iTXt", "XMP packed", "XMP", "tEXt", "iCCP", "iCCP damaged", "iCCP cut"],
)
def test_large_or_damaged_metadata_of_a_png_do_not_cost_the_picture(kind: bytes, body: bytes) -> None:
    data = with_chunk(encoded(patches(), "PNG"), kind, body)
    began = time.process_time()
    assert decode(data).tobytes() == patches().tobytes()
    assert time.process_time() - began < 1
    assert len(png_profile(data) or b"") <= MAX_PROFILE_BYTES


def test_a_profile_of_a_megabyte_is_applied() -> None:
    profile = RGB["P3"] + bytes(1_500_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    decoded = decode(encoded(patches(), "PNG", icc_profile=profile))
    assert np.abs(np.asarray(decoded, int) - reference(patches(), RGB["P3"])).max() <= 1


# TIFFs that Pillow alone reads wrongly or not

HEIGHT, WIDTH = 24, 36
GREYS = (np.arange(WIDTH)[None] * 7).repeat(HEIGHT, 0).astype(np.uint8)
COLOURS = np.stack([GREYS, (np.arange(HEIGHT)[:, None] * 10).repeat(WIDTH, 1), 255 - GREYS], -1).astype(np.uint8)


def tiff(
    values: NDArray[np.generic],
    photometric: int,
    *,
    order: str = "<",
    planar: bool = False,
    deflate: bool = False,
    bits: int | None = None,
    extra: int | None = None,
) -> bytes:
    """A TIFF of (height, width) or (height, width, samples) values, in strips of five rows."""
    import zlib

    values = values[..., None] if values.ndim == 2 else values
    height, width, samples = values.shape
    planes = [values[..., [sample]] for sample in range(samples)] if planar else [values]
    typed = values.dtype.newbyteorder(order)
    strips = [plane[top : top + 5].astype(typed).tobytes() for plane in planes for top in range(0, height, 5)]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    sizes = [len(strip) for strip in strips]
    starts = [8 + sum(sizes[:index]) for index in range(len(sizes))]
    shorts = {
        258: [bits or 8 * values.dtype.itemsize] * samples,
        259: [8 if deflate else 1],
        262: [photometric],
        277: [samples],
        278: [5],
        284: [2 if planar else 1],
        339: [kind] * samples,
        **({338: [extra]} if extra is not None else {}),
    }
    longs = {256: [width], 257: [height], 273: starts, 279: sizes}
    body, entries = b"".join(strips), []
    for tag, form, tag_values in sorted(
        [*((tag, "H", of) for tag, of in shorts.items()), *((tag, "I", of) for tag, of in longs.items())]
    ):
        content = struct.pack(f"{order}{len(tag_values)}{form}", *tag_values)
        if len(content) > 4:
            content, body = struct.pack(order + "I", 8 + len(body)), body + content
        entries.append(
            struct.pack(order + "HHI", tag, 3 if form == "H" else 4, len(tag_values)) + content.ljust(4, b"\0")
        )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    return head + body + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def wide(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return values.astype(np.uint16) * 257


def shares(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    return values.astype(np.float32) / 255


OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
INKS = np.concatenate([255 - COLOURS, OPAQUE * 0], -1)
GREY_KINDS: dict[str, tuple[Callable[[], NDArray[np.generic]], int]] = {
    "8 bits": (lambda: GREYS, 1),
    "8 bits, white is zero": (lambda: 255 - GREYS, 0),
    "16 bits": (lambda: wide(GREYS), 1),
    "16 bits, white is zero": (lambda: wide(255 - GREYS), 0),
    "floats": (lambda: shares(GREYS), 1),
    "floats, white is zero": (lambda: shares(255 - GREYS), 0),
    "signed 16 bits": (lambda: GREYS.astype(np.int16), 1),
    "signed 32 bits": (lambda: GREYS.astype(np.int32), 1),
}


@pytest.mark.parametrize("deflate", [False, True], ids=["raw", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", GREY_KINDS)
def test_greys_of_a_tiff_have_their_value(kind: str, order: str, deflate: bool) -> None:
    values, photometric = GREY_KINDS[kind]
    decoded = np.asarray(decode(tiff(values(), photometric, order=order, deflate=deflate)), int)
    assert np.abs(decoded - GREYS[..., None].astype(int)).max() <= 1


COLOUR_KINDS: dict[str, tuple[NDArray[np.uint8], int, int | None]] = {
    "RGB": (COLOURS, 2, None),
    "RGBA": (np.concatenate([COLOURS, OPAQUE], -1), 2, 2),
    "RGB and more": (np.concatenate([COLOURS, OPAQUE // 3], -1), 2, 0),
    "CMYK": (INKS, 5, None),
}


@pytest.mark.parametrize("deflate", [False, True], ids=["raw", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", COLOUR_KINDS)
def test_colours_of_a_tiff_have_their_values(kind: str, bits: int, planar: bool, order: str, deflate: bool) -> None:
    if (kind, bits, planar, deflate) == ("RGB and more", 8, True, False):
        pytest.skip("Pillow refuses it")
    values, photometric, extra = COLOUR_KINDS[kind]
    data = tiff(
        values if bits == 8 else wide(values), photometric, order=order, planar=planar, deflate=deflate, extra=extra
    )
    assert np.abs(np.asarray(decode(data), int) - COLOURS.astype(int)).max() <= 1


def test_greys_of_twelve_bits_are_not_read_as_sixteen() -> None:
    values = np.linspace(0, 4095, 64).astype(int)[None].repeat(5, 0)
    pairs = values.reshape(5, 32, 2)
    packed_bits = np.stack(
        [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1
    )
    data = tiff(packed_bits.reshape(5, 96).astype(np.uint8), 1, bits=12)
    data = data.replace(struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 64))
    assert np.abs(np.asarray(decode(data), int)[..., 0] - values * 255 / 4095).max() <= 1


def test_unsigned_greys_of_32_bits_do_not_wrap_around() -> None:
    decoded = np.asarray(decode(tiff(GREYS.astype(np.uint32) << 24, 1)), int)[..., 0]
    assert np.abs(decoded - (GREYS.astype(float) * 255 / GREYS.max())).max() <= 1


def test_lab_colours_are_converted() -> None:
    lab = ImageCms.profileToProfile(
        patches(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert (
        np.abs(np.asarray(decode(encoded(lab, "TIFF")), int) - np.asarray(patches(), int)).max() <= 8
    )  # LAB of 8 bits


def test_a_transparent_grey_of_a_png_of_sixteen_bits_turns_white() -> None:
    image = Image.fromarray(np.array([[0, 20_000, 65_535]], np.uint16))
    data = with_chunk(encoded(image, "PNG"), b"tRNS", struct.pack(">H", 20_000))
    assert np.asarray(decode(data))[0, :, 0].tolist() == [0, 255, 255]
