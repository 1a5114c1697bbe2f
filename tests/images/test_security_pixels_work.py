"""The shared memory budget of decodes, strips before image processors, and unusual files in an index."""

from __future__ import annotations

import datetime
import gc
import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from benchmarks.hostile_pictures import _saved, plain
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

import diptych
from diptych.errors import ImageError
from diptych.images.decode import DECODE_MEMORY, MAX_ASPECT, central, decode
from diptych.images.decode_memory import DecodeMemory
from diptych.images.walk import change_time
from diptych.search.filters import Filters
from diptych.search.index import Index
from diptych.search.sources import DataSet
from tests.conftest import TINY

MIB = 2**20

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def model() -> diptych.DualEncoder:
    names = ("image_tower", "text_tower", "pretrained", "text_arguments", "image_size", "crop", "dim", "device")
    return diptych.build(**{name: TINY[name] for name in names}, projection="linear", captions=["a red star"])


# Memory that all decodes share


def test_decodes_take_their_memory_from_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    monkeypatch.setattr("diptych.images.decode.DECODE_MEMORY.hold", lambda size: held.append(size) or io.BytesIO())
    decode(plain("RGB", 100, "PNG"))
    decode(plain("RGBA", 100, "PNG"))
    decode(plain("RGB", 100, "WEBP"))
    decode(plain("RGB", 100, "JPEG", progressive=True))
    assert held == [40_000, 80_000, 160_000, 77_632]


def test_large_pictures_wait_for_each_other_and_small_ones_for_none_of_them() -> None:
    memory = DecodeMemory(1_600)
    running: list[str] = []
    most = 0
    start, release = threading.Event(), threading.Event()

    def decoding(name: str, size: int) -> None:
        nonlocal most
        with memory.hold(size):
            running.append(name)
            most = max(most, sum(each == "large" for each in running))
            start.set()
            if name == "large":
                release.wait(10)
            running.remove(name)

    threads = [threading.Thread(target=decoding, args=("large", 5_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert start.wait(10)
    for _ in range(20):
        decoding("small", 100)  # returns while a large one runs
    assert running == ["large"]
    release.set()
    for thread in threads:
        thread.join(10)
    assert most == 1
    assert not running


def test_a_decode_inside_a_decode_and_one_that_fails_leave_the_budget_as_it_was() -> None:
    memory = DecodeMemory(1_600)
    with memory.hold(9_999), memory.hold(9_999), memory.hold(1):
        pass
    with pytest.raises(ValueError, match="broken"), memory.hold(9_999):
        raise ValueError("broken")
    with memory.hold(9_999):
        pass
    with pytest.raises(ImageError):
        decode(plain("RGB", 200, "PNG")[:-40])
    assert (DECODE_MEMORY._small.free, DECODE_MEMORY._large.free) == (256 * MIB, 768 * MIB)


def test_a_large_picture_is_not_held_whole_for_a_model_that_wants_a_small_one() -> None:
    gradient = np.linspace(0, 255, 4_200, dtype=np.uint8)[None].repeat(4_200, 0)
    data = _saved(Image.fromarray(gradient), "PNG", compress_level=1)
    small = decode(data, min_side=224)
    assert min(small.size) >= 448
    assert small.size == (467, 467)
    gc.collect()
    squares = (np.asarray(each.resize((224, 224)), int) for each in (small, decode(data)))
    assert np.abs(next(squares) - next(squares)).max() <= 1


# What a resize makes of a strip


@pytest.mark.parametrize("size", [(4_000, 1), (1, 4_000), (1_000, 3), (5_001, 6), (65, 1), (64, 1), (2_000, 200)])
def test_a_strip_is_cropped_to_its_middle_and_other_images_are_unchanged(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    kept = central(image)
    assert max(kept.size) <= MAX_ASPECT * min(kept.size)
    assert min(kept.size) == min(size)
    assert (kept is image) == (max(size) <= MAX_ASPECT * min(size))


def strip(width: int, height: int) -> Image.Image:
    """A smooth picture, brightest in the middle, so that where it is cut can be seen."""
    wave = np.cos((np.arange(width) - (width - 1) / 2) / height)
    values = np.stack([127 + 120 * wave, 127 - 90 * wave, 60 + 50 * wave], -1).astype(np.uint8)
    return Image.fromarray(values[None].repeat(height, 0))


@pytest.mark.parametrize("size", [(4_000, 40), (2_001, 15), (3_000, 8)])
@pytest.mark.parametrize("tall", [False, True])
def test_processors_that_crop_the_middle_see_what_they_saw_before(size: tuple[int, int], tall: bool) -> None:
    transformers = pytest.importorskip("transformers")
    image = strip(*size)
    image = image.transpose(Image.Transpose.ROTATE_90) if tall else image
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    settings = {"return_tensors": "np", "do_normalize": False}
    before, now = (processor(each, **settings)["pixel_values"] * 255 for each in (image, central(image)))
    assert np.ptp(before) > 20
    assert np.abs(before - now).max() <= 4


def test_every_dual_encoder_takes_a_strip_without_making_a_large_picture(
    model: diptych.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    tower = model.route("image")[0]
    inner = tower.preprocess

    def recorded(inputs: list[dict[str, Image.Image]]) -> object:
        seen.extend(each["image"].size for each in inputs)
        return inner(inputs)

    monkeypatch.setattr(tower, "preprocess", recorded)
    vectors = model.encode_images([Image.new("RGB", (4_000, 1), "red"), Image.new("RGB", (1_000, 100), "red")])
    assert seen == [(64, 1), (1_000, 100)]
    assert np.isfinite(vectors).all()


def test_captioners_and_blip_pass_no_strip_to_their_processors() -> None:
    from diptych.captioning.transformers_captioner import ChatCaptionModel, TransformersCaptionModel
    from diptych.matching.blip import BlipEncoder

    seen: list[tuple[int, int]] = []

    def processor(images: list[Image.Image], **settings: str) -> dict[str, None]:
        seen.extend(image.size for image in images)
        return {"pixel_values": None}

    whole, chat, blip = (kind.__new__(kind) for kind in (TransformersCaptionModel, ChatCaptionModel, BlipEncoder))
    whole.image_processor, blip.processor = processor, SimpleNamespace(image_processor=processor)
    pictures = [Image.new("RGB", (4_000, 1)), Image.new("RGB", (1_000, 100))]
    whole.prepare(pictures)
    blip.preprocess_images(pictures)
    seen += [image.size for image in chat.prepare(pictures)["images"]]
    assert seen == [(64, 1), (1_000, 100)] * 3


# Odd files in an index


@pytest.mark.parametrize("year", [1, 1600, 1969, 2026, 2263, 2300, 9999, 200_000])
def test_the_time_of_a_file_fits_into_a_row(year: int) -> None:
    nanoseconds = (year - 1970) * 31_556_952 * 10**9
    row = change_time(SimpleNamespace(st_mtime_ns=nanoseconds))
    assert pa.array([row], pa.int64())[0].as_py() == row
    assert (row == nanoseconds) == (1678 <= year <= 2262)


def test_a_picture_of_the_year_2300_is_indexed_and_then_unchanged(model: diptych.DualEncoder, tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "far.png"
    file.parent.mkdir()
    Image.new("RGB", (40, 30), "red").save(file)
    os.utime(file, (0, 10_413_792_000))
    if file.stat().st_mtime < 10_000_000_000:
        pytest.skip("this file system keeps time after 2262")
    index = Index(file.parent, model)
    assert index.add(file.parent).new == 1
    assert index.add(file.parent).unchanged == 1
    assert [Path(hit.path).name for hit in index.search("red", keep=None)] == ["far.png"]


def exif(pairs: dict[int, object], gps: dict[int, object] | None = None) -> bytes:
    """A small JPEG with these EXIF values."""
    tags = Image.Exif()
    tags.update({tag: value for tag, value in pairs.items() if tag not in (0x9003,)})
    if 0x9003 in pairs:
        tags.get_ifd(0x8769)[0x9003] = pairs[0x9003]
    tags.get_ifd(0x8825).update(gps or {})
    return _saved(Image.new("RGB", (40, 30), "red"), "JPEG", exif=tags)


ODD = {
    "year 0": exif({0x9003: "0000:00:00 00:00:00"}),
    "year 9999": exif({0x9003: "9999:12:31 23:59:59"}),
    "year 1": exif({0x9003: "0001:01:01 00:00:00"}),
    "orientation 0": exif({0x0112: 0}),
    "orientation 9": exif({0x0112: 9}),
    "orientation 65535": exif({0x0112: 65_535}),
    "camera": exif({0x010F: "a\0b\x1b[31m", 0x0110: "\x07" * 3_000 + "x" * 3_000}),
    "gps": exif({}, {1: "N", 2: (1e9, 1e9, 1e9), 3: "E", 4: (0.0, 0.0, 0.0)}),
    "gps in no numbers": exif({}, {1: "N", 2: (IFDRational(0, 0), 0.0, 0.0), 3: "E", 4: (1.0, 2.0, 3.0)}),
}


def test_unusual_exif_does_not_stop_indexing(model: diptych.DualEncoder, tmp_path: Path) -> None:
    for name, data in ODD.items():
        (tmp_path / f"{name}.jpg").write_bytes(data + name.encode())  # other bytes, another picture
    index = Index(tmp_path, model)
    added = index.add(tmp_path)
    assert (added.new, added.skipped) == (len(ODD), ())
    assert {hit.width for hit in index.search("red", keep=None)} == {40}
    assert index.add(tmp_path).unchanged == len(ODD)


@pytest.mark.parametrize("day", [datetime.date.min, datetime.date(2300, 1, 1), datetime.date.max])
def test_the_first_and_the_last_day_of_the_calendar_can_be_filtered_by(
    day: datetime.date, model: diptych.DualEncoder, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    index = Index(tmp_path, model)
    index.add(tmp_path)
    ranges = Filters(since=day), Filters(until=day)
    since, until = (len(index.search("red", keep=None, filters=each)) for each in ranges)
    assert (since, until) == ((1, 0) if day == datetime.date.min else (0, 1))


def test_a_caption_that_no_table_can_hold_is_spelled_out(model: diptych.DualEncoder, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    row = SimpleNamespace(image_id="a", image=tmp_path / "a.png", captions=("a \ud800 dog\0",))
    items = list(DataSet([row]).items())
    assert pa.array([item.caption for item in items], pa.string()).to_pylist() == ["a \\xed\\xa0\\x80 dog\0"]
