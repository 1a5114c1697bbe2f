"""Hostile images: time and memory are limited by the cost of decoding, not by what a header declares."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.hostile_pictures import (
    _grey,
    _saved,
    large_tile,
    many_blocks,
    many_chunks,
    many_scans,
    many_segments,
    many_strips,
    plain,
    png_chunk,
    run_length_bmp,
    tiff,
    untrue_avif,
)
from PIL import Image

from diptych.errors import ImageError
from diptych.images.decode import decode

MIB = 2**20


def refusal(data: bytes, **options: int) -> ImageError:
    """The error for these bytes, which must come quickly."""
    began = time.process_time()
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert time.process_time() - began < 0.5
    return caught.value


# Scans


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded() -> None:
    assert "1,000 scans" not in str(decode(many_scans(64, 900)))
    error = refusal(many_scans(4_000, 1_000))
    assert error.reason == "undecodable"
    assert "more than 125 scans of 4000 x 4000 pixels" in str(error)


def test_scans_of_few_pixels_are_limited_in_number() -> None:
    assert "more than 1,000 scans" in str(refusal(many_scans(16, 1_001)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_an_ordinary_progressive_jpeg_has_few_of_the_scans_that_it_may_have(mode: str) -> None:
    assert plain(mode, 64, "JPEG", progressive=True).count(b"\xff\xda") <= 20  # as many as 100 megapixels may have
    assert decode(plain(mode, 64, "JPEG", progressive=True)).size == (64, 64)


def test_bytes_after_a_jpeg_are_not_counted_as_scans() -> None:
    data = plain("RGB", 2_000, "JPEG", progressive=True)  # may have 500
    assert decode(data + b"\xff\xda" * 2_000, min_side=100).size == (250, 250)


def test_a_thumbnail_or_profile_inside_a_segment_is_not_counted_as_scans() -> None:
    data = plain("RGB", 2_000, "JPEG", progressive=True)
    segment = b"\xff\xed" + struct.pack(">H", 2 + 2_000) + b"\xff\xda" * 1_000
    assert decode(data[:2] + segment + data[2:], min_side=100).size == (250, 250)


def test_scans_of_a_jpeg_inside_a_tiff_are_limited() -> None:
    def wrapped(side: int, scans: int) -> bytes:
        jpeg = many_scans(side, scans)
        strip = {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, side), 279: (4, 1, len(jpeg))}
        return tiff({**_grey(side, side, 7), **strip}, jpeg)

    assert decode(wrapped(64, 10)).size == (64, 64)
    assert "more than 55 JPEG scans of 36,000,000 pixels" in str(refusal(wrapped(6_000, 60)))


# Structures that Pillow walks in Python


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (many_segments(70_000), "segments"),
        (plain("RGB", 8, "JPEG")[:2] + bytes(70_000) + plain("RGB", 8, "JPEG")[2:], "segments"),
        (plain("RGB", 8, "JPEG")[:2] + b"\xff\xe1\0\x08Exif\0\0" * 17 + plain("RGB", 8, "JPEG")[2:], "EXIF segments"),
        (many_chunks(70_000), "chunks"),
        (many_blocks(70_000), "blocks"),
        (many_strips(70_000), "values in tag 273"),
        (tiff({**_grey(8, 8, 1), 273: (4, 1, 8), 258: (3, 300_000, 8)}, bytes(600_000)), "values in tag 258"),
        (run_length_bmp(5_000, 4_000, b"\0\1"), "run-length"),
    ],
    ids=["jpeg", "jpeg between", "jpeg exif", "png", "gif", "tiff strips", "tiff values", "bmp"],
)
def test_a_structure_of_too_many_parts_is_refused(data: bytes, what: str) -> None:
    error = refusal(data)
    assert error.reason == "undecodable"
    assert f"more than {what}" in str(error) or what in str(error)


def test_many_parts_below_the_limits_decode() -> None:
    for data in (many_segments(2_000), many_chunks(2_000), many_blocks(2_000), many_strips(2_000)):
        assert decode(data).size == (8, 8)


def test_texts_and_profiles_of_a_png_are_left_out_before_they_are_unpacked() -> None:
    import zlib

    data = plain("RGB", 8, "PNG")
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 * MIB)))
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 * MIB)))
    at = data.index(b"IDAT") - 4
    assert decode(data[:at] + profile + bomb + data[at:]).getpixel((0, 0)) == (90, 90, 90)


# The size that is decoded


def test_the_tile_of_a_tiff_counts_and_not_the_picture_cut_from_it() -> None:
    error = refusal(large_tile(17_600))
    assert error.reason == "too_many_pixels"
    assert "64 x 64 = 4,096 pixels, and 309,760,000 are decoded for them" in str(error)
    assert decode(large_tile(256)).size == (64, 64)


def test_the_frame_of_an_avif_counts_and_not_the_size_that_it_is_shown_in() -> None:
    error = refusal(untrue_avif(1_100), max_pixels=1_000_000)
    assert error.reason == "too_many_pixels"
    assert "1,210,000 are decoded" in str(error)


@pytest.mark.parametrize("options", [{}, {"save_all": True}], ids=["still", "sequence"])
def test_an_ordinary_avif_decodes_at_the_limit_of_its_own_size(options: dict[str, bool]) -> None:
    image = Image.new("RGB", (1_200, 1_000), (200, 10, 10))
    frames = {"append_images": [Image.new("RGB", image.size)]} if options else {}
    data = _saved(image, "AVIF", speed=10, **options, **frames)
    assert decode(data, max_pixels=1_200_000).size == image.size
    assert refusal(data, max_pixels=1_199_999).reason == "too_many_pixels"


def test_a_webp_is_judged_by_the_memory_that_its_canvases_take() -> None:
    data = plain("RGB", 4_000, "WEBP", lossless=True, method=0)
    assert len(data) < 1_000
    assert decode(data, max_pixels=16_000_000 * 16 // 10).size == (4_000, 4_000)
    error = refusal(data, max_pixels=16_000_000)
    assert error.reason == "too_many_pixels"
    assert "take 256,000,000 bytes to decode as WEBP, the limit is 160,000,000" in str(error)


def test_a_jpeg_is_judged_by_the_size_to_which_it_is_reduced() -> None:
    data = plain("L", 3_000, "JPEG")
    assert decode(data, max_pixels=1_800_000, min_side=300).size == (375, 375)
    assert refusal(data, max_pixels=1_799_999, min_side=300).reason == "too_many_pixels"
    assert refusal(data, max_pixels=4_000_000).reason == "too_many_pixels"


def test_a_progressive_jpeg_is_judged_by_the_coefficients_that_are_held_whatever_the_reduction() -> None:
    small = plain("RGB", 3_000, "JPEG", progressive=True, subsampling=2)  # 3 bytes a pixel
    assert decode(small, max_pixels=3_000_000, min_side=300).size == (375, 375)
    large = plain("RGB", 3_000, "JPEG", progressive=True, subsampling=0)  # 6 bytes a pixel
    assert "take 54," in str(refusal(large, max_pixels=3_000_000, min_side=300))


@pytest.mark.parametrize("progressive", [False, True])
def test_the_largest_photographs_of_phones_are_read(progressive: bool) -> None:
    data = _saved(Image.new("RGB", (16_384, 12_288), (200, 120, 40)), "JPEG", progressive=progressive)
    assert decode(data, min_side=224).size == (2_048, 1_536)
    assert decode(data, min_side=512, max_pixels=50_000_000 if not progressive else 100_000_000).size == (2_048, 1_536)


def test_a_panorama_of_112_megapixels_is_read_whole_and_reduced() -> None:
    panorama = Image.new("RGB", (30_000, 3_750), (200, 120, 40))
    for data in (_saved(panorama, "JPEG", progressive=True, subsampling=0), _saved(panorama, "PNG", compress_level=1)):
        assert decode(data, min_side=224).width < 10_000
    assert decode(_saved(panorama, "JPEG")).size == (30_000, 3_750)


def test_a_tiff_of_75_megabytes_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    Image.new("RGB", (5_200, 4_900), (9, 200, 90)).save(path)
    assert path.stat().st_size > 75_000_000
    assert decode(path, min_side=224).getpixel((5, 5)) == (9, 200, 90)


def test_no_error_about_a_limit_names_a_parameter_that_its_reader_may_not_have(tmp_path: Path) -> None:
    errors = [
        refusal(plain("RGB", 300, "PNG"), max_pixels=80_000),
        refusal(plain("RGBA", 1_100, "WEBP", lossless=True), max_pixels=1_210_000),
    ]
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(300 * MIB)
    with pytest.raises(ImageError) as caught:
        decode(path)
    for error in (*errors, caught.value):
        assert "save a smaller copy of it" in str(error)
        assert "max_" not in str(error)


_PEAK = """
import resource, sys
from diptych.images.decode import decode, formats
formats()
decode(open(sys.argv[1], "rb").read())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(open(sys.argv[2], "rb").read())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read as Linux counts them")
@pytest.mark.parametrize(("mode", "format", "most"), [("RGBA", "PNG", 10), ("RGBA", "WEBP", 18)])
def test_no_more_than_the_picture_and_its_rgb_are_held(mode: str, format: str, most: int, tmp_path: Path) -> None:
    options = {"WEBP": {"lossless": True, "method": 0}, "PNG": {"compress_level": 1}}.get(format, {})
    for name, side in (("small", 64), ("large", 5_000)):
        Path(tmp_path, name).write_bytes(_saved(Image.new(mode, (side, side)), format, **options))
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < most * 25_000_000 / MIB
