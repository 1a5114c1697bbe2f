"""Images that were cut short: little missing is read as viewers show it, much missing is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diptych.errors import ImageError
from diptych.images.decode import decode


def photograph(width: int = 640, height: int = 480, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def pixels(data: bytes, side: int | None = None) -> np.ndarray:
    return np.asarray(decode(data, min_side=side), int)


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("side", [None, 60])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_its_end_marker_is_whole(kind: str, mode: str, side: int | None) -> None:
    data = jpeg(photograph(mode=mode), **KINDS[kind])
    for end in (len(data) - 2, len(data) - 1):
        assert (pixels(data[:end], side) == pixels(data, side)).all()


@pytest.mark.parametrize("kind", ["baseline", "4:4:4", "restarts"])
def test_a_jpeg_that_lacks_a_few_bytes_has_all_its_rows_but_the_last(kind: str) -> None:
    data = jpeg(photograph(), **KINDS[kind])
    whole, cut = pixels(data), pixels(data[:-40])
    assert cut.shape == whole.shape
    assert (cut[:-48] == whole[:-48]).all()
    assert (cut[-1, -1] == 128).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_a_third_is_refused(kind: str) -> None:
    data = jpeg(photograph(), **KINDS[kind])
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) * 2 // 3])
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_share_of_rows_decides(mode: str) -> None:
    data = jpeg(photograph(640, 1600, mode))
    refused = []
    for share in range(70, 100, 2):
        try:
            decode(data[: len(data) * share // 100])
        except ImageError:
            refused.append(share)
    assert refused == list(range(70, max(refused) + 2, 2))
    assert 84 <= max(refused) <= 94


def test_a_progressive_jpeg_is_read_once_its_last_scan_has_begun() -> None:
    data = jpeg(photograph(), progressive=True)
    last = data.rindex(b"\xff\xda")
    whole, cut = pixels(data), pixels(data[: (last + len(data)) // 2])
    assert np.abs(whole - cut).mean() < 3
    with pytest.raises(ImageError):
        decode(data[:last])


def test_a_picture_that_ends_in_grey_and_lacks_its_end_marker_is_read_unless_all_of_it_is_grey() -> None:
    image = photograph()
    image.paste((128, 128, 128), (0, 440, 640, 480))
    assert pixels(jpeg(image)[:-2]).shape == (480, 640, 3)


@pytest.mark.parametrize("end", range(2, 700, 37))
def test_a_jpeg_cut_in_its_headers_is_refused(end: int) -> None:
    with pytest.raises(ImageError):
        decode(jpeg(photograph())[:end])


def test_a_png_and_a_gif_without_their_last_bytes_are_whole() -> None:
    for format, missing in (("PNG", 12), ("GIF", 1)):
        file = io.BytesIO()
        photograph().save(file, format)
        assert (pixels(file.getvalue()[:-missing]) == pixels(file.getvalue())).all()
