"""Decoding: images of every kind become upright RGB within the limits; anything else is an ImageError with a reason."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from diptych.errors import ImageError
from diptych.images.decode import (
    MAX_PIXELS,
    ImageSource,
    Slice,
    content_hash,
    decode,
    formats,
    perceptual_hash,
    read_bytes,
    thumbnail,
)

RED = (200, 30, 40)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (2, 2))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
    return image.resize((width, height), Image.Resampling.NEAREST)


def close(pixel, expected, by: int = 6) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, expected, strict=True))


def reason_of(image: ImageSource, **limits) -> str:
    with pytest.raises(ImageError) as caught:
        decode(image, **limits)
    return caught.value.reason


# Reading bytes


def test_a_path_a_slice_and_bytes_read_the_same(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"before" + b"picture" + b"after")
    (tmp_path / "b.bin").write_bytes(b"picture")
    assert read_bytes(tmp_path / "b.bin") == read_bytes(Slice(tmp_path / "a.bin", 6, 7)) == read_bytes(b"picture")


def test_a_missing_file_an_empty_one_and_a_folder_each_have_their_reason(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    assert reason_of(tmp_path / "none.jpg") == "missing"
    assert reason_of(tmp_path / "empty.jpg") == reason_of(b"") == "empty"
    assert reason_of(tmp_path) == reason_of(Path("nul\0.jpg")) == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason_of(tmp_path / "pipe.jpg") == "unreadable"


@pytest.mark.parametrize("kind", ["path", "slice", "bytes"])
def test_more_bytes_than_the_limit_are_refused_and_the_limit_itself_is_not(tmp_path: Path, kind: str):
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 10)
    image = {"path": path, "slice": Slice(path, 0, 10), "bytes": b"x" * 10}[kind]
    assert len(read_bytes(image, max_bytes=10)) == 10
    with pytest.raises(ImageError, match="the limit is 9") as caught:
        read_bytes(image, max_bytes=9)
    assert caught.value.reason == "too_many_bytes"


def test_a_slice_that_ends_beyond_its_file_is_truncated(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"x" * 10)
    assert reason_of(Slice(tmp_path / "a.tar", 5, 6)) == "truncated"


def test_messages_name_the_file_and_the_limit(tmp_path: Path):
    path = tmp_path / "wide.png"
    quarters(20, 10).save(path)
    with pytest.raises(ImageError, match=r"wide\.png.* 20 x 10 = 200 pixels, the limit is 199"):
        decode(path, max_pixels=199)


# Decoding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int):
    stored = quarters()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that makes a camera's file of an upright picture
    if orientation in undo:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, "JPEG", exif=exif, quality=95))
    assert image.size == (64, 48)
    for at, colour in {(8, 8): (255, 0, 0), (56, 8): (0, 255, 0), (8, 40): (0, 0, 255)}.items():
        assert close(image.getpixel(at), colour, by=12)


@pytest.mark.parametrize(("format", "mode"), [("PNG", "L"), ("PNG", "1"), ("JPEG", "L"), ("TIFF", "L"), ("BMP", "1")])
def test_greys_keep_their_value(format: str, mode: str):
    value = 255 if mode == "1" else 90
    assert close(decode(encoded(Image.new(mode, (16, 16), value), format)).getpixel((3, 3)), (value,) * 3, by=2)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_parts_turn_white_and_half_transparent_ones_halfway(mode: str):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    options = {}
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.paste(0, (0, 0, 4, 8))
        options = {"transparency": 1}
    decoded = decode(encoded(image.convert(mode), "PNG", **options))
    assert decoded.mode == "RGB"
    assert (decoded.getpixel((1, 1)), decoded.getpixel((6, 6))) == ((0, 0, 0), (255, 255, 255))
    half = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert half.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_colour_of_an_rgb_png_turns_white():
    assert decode(encoded(Image.new("RGB", (4, 4), RED), "PNG", transparency=RED)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_jpegs_have_their_colours_with_adobes_inversion_and_without():
    adobe = encoded(Image.new("RGB", (32, 32), RED).convert("CMYK"), "JPEG", quality=95)
    assert close(decode(adobe).getpixel((5, 5)), RED)
    inverted = encoded(ImageChops.invert(Image.new("RGB", (32, 32), RED).convert("CMYK")), "JPEG", quality=95)
    start = inverted.index(b"\xff\xee")  # Adobe's APP14 segment; without it nothing says that the inks are inverted
    length = struct.unpack_from(">H", inverted, start + 2)[0]
    assert close(decode(inverted[:start] + inverted[start + 2 + length :]).getpixel((5, 5)), RED)


@pytest.mark.parametrize(("dtype", "format"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF")])
def test_sixteen_bits_are_scaled_and_not_clipped(dtype: str, format: str):
    values = np.array([[0, 257, 100 * 257, 65535]], dtype=dtype)
    greys = np.asarray(decode(encoded(Image.fromarray(values), format)))[0, :, 0]
    assert greys.tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_by_the_range_that_they_fill(values: list[float], greys: list[int]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    assert np.asarray(image)[0, :, 0].tolist() == greys


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255))]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert close(decode(data).getpixel((8, 8)), RED)


@pytest.mark.parametrize("format", formats())
def test_every_format_that_is_listed_decodes(format: str):
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    image = decode(encoded(quarters(), format))
    assert (image.size, image.mode) == ((64, 48), "RGB")
    assert close(image.getpixel((8, 8)), (255, 0, 0), by=16)


def test_metadata_are_removed():
    exif = Image.Exif()
    exif[0x010E] = "at home"
    image = decode(encoded(quarters(), "JPEG", exif=exif, comment=b"secret"))
    assert image.info == {}
    assert b"at home" not in encoded(thumbnail(image, 32), "WEBP")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture():
    assert decode(encoded(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).size == (64, 48)


@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA", "ICO", "PPM"])
def test_other_formats_are_never_opened(format: str):
    assert reason_of(encoded(quarters(), format)) == "undecodable"


# Reduced scale


@pytest.mark.parametrize(
    ("min_side", "size"), [(None, (800, 600)), (75, (100, 75)), (76, (200, 150)), (600, (800, 600))]
)
def test_min_side_reduces_a_jpeg_as_far_as_its_shorter_side_allows(min_side: int | None, size: tuple[int, int]):
    assert decode(encoded(quarters(800, 600), "JPEG"), min_side=min_side).size == size


def test_min_side_leaves_other_formats_and_small_pictures_alone():
    assert decode(encoded(quarters(800, 600), "PNG"), min_side=50).size == (800, 600)
    assert decode(encoded(quarters(40, 30), "JPEG"), min_side=224).size == (40, 30)


def test_a_reduced_picture_looks_like_the_whole_one_reduced():
    data = encoded(quarters(800, 600), "JPEG", quality=95)
    fast = np.asarray(decode(data, min_side=75), dtype=int)
    slow = np.asarray(decode(data).resize((100, 75), Image.Resampling.BOX), dtype=int)
    assert np.abs(fast - slow).mean() < 1


# Hostile bytes


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("side", [15_812, 20_000, 60_000])  # Pillow's own limits lie at 9,459 and 13,377
def test_the_pixel_limit_is_checked_before_decoding_and_pillow_stays_silent(side: int, monkeypatch: pytest.MonkeyPatch):
    def refuse(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(bomb(side, side)) == "too_many_pixels"
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_caller_may_raise_the_pixel_limit_above_pillows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encoded(quarters(), "PNG"), max_pixels=MAX_PIXELS).size == (64, 48)


SAMPLES = {
    "jpeg": encoded(quarters(), "JPEG"),
    "progressive": encoded(quarters(), "JPEG", progressive=True),
    "png": encoded(quarters(), "PNG"),
    "palette": encoded(quarters().convert("P"), "PNG"),
    "webp": encoded(quarters(), "WEBP"),
    "gif": encoded(quarters(), "GIF"),
    "bmp": encoded(quarters(), "BMP"),
    "tiff": encoded(quarters(), "TIFF"),
    "lzw": encoded(quarters(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("sample", [name for name in SAMPLES if name != "lzw"])  # libtiff does not say why it failed
def test_a_file_cut_in_the_middle_is_truncated(sample: str):
    data = SAMPLES[sample]
    assert reason_of(data[: len(data) * 6 // 10]) == "truncated"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("sample", SAMPLES)
def test_damaged_bytes_raise_image_errors_and_nothing_else(sample: str):
    chance = random.Random(sample)
    reasons = set()
    for _ in range(150):
        data = bytearray(SAMPLES[sample])
        for _ in range(chance.choice([1, 4, 20])):
            data[chance.randrange(chance.choice([min(60, len(data)), len(data)]))] = chance.randrange(256)
        try:
            assert decode(bytes(data[: chance.choice([len(data), chance.randrange(1, len(data))])])).mode == "RGB"
        except ImageError as error:
            reasons.add(error.reason)
    assert reasons <= {"truncated", "undecodable", "too_many_pixels"}
    assert reasons


def test_text_and_random_bytes_are_undecodable():
    assert reason_of(b"<html>404 Not Found</html>") == "undecodable"
    assert reason_of(random.Random(0).randbytes(4096)) == "undecodable"


def test_many_threads_decode_to_the_same_pixels(tmp_path: Path):
    path = tmp_path / "a.jpg"
    quarters(320, 240).save(path)
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda _: decode(path, min_side=60).tobytes(), range(64)))
    assert len(seen) == 1


# Hashes and thumbnails


def test_the_content_hash_names_the_bytes():
    # b2sum --length=128 of the empty file
    assert content_hash(b"") == "cae66941d9efbd404e4d88758ea67670"
    assert content_hash(b"a") != content_hash(b"b")


def test_the_perceptual_hash_is_the_difference_hash_of_nine_by_eight_greys():
    rising = Image.fromarray(np.tile(np.arange(0, 252, 7, dtype=np.uint8), (32, 1)))  # brighter to the right: all bits
    assert perceptual_hash(rising) == 2**64 - 1
    assert perceptual_hash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    greys = np.random.default_rng(0).integers(0, 256, (8, 9), dtype=np.uint8)
    bits = "".join("1" if greys[row, at + 1] > greys[row, at] else "0" for row in range(8) for at in range(8))
    assert perceptual_hash(Image.fromarray(greys)) == int(bits, 2)


def test_near_identical_pictures_differ_in_few_bits_and_others_in_many():
    noise = np.random.default_rng(1)
    first, second = (
        Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((400, 300), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    again = decode(encoded(first.resize((250, 180)), "JPEG", quality=60))
    assert (perceptual_hash(first) ^ perceptual_hash(again)).bit_count() <= 3
    assert (perceptual_hash(first) ^ perceptual_hash(second)).bit_count() > 16


def test_a_thumbnail_fits_keeps_the_shape_and_never_enlarges():
    assert thumbnail(quarters(400, 200), 100).size == (100, 50)
    assert thumbnail(quarters(40, 20), 100).size == (40, 20)
    assert thumbnail(quarters(1000, 1), 100).size == (100, 1)
