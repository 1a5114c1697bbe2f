"""Near-duplicates: pairs and groups equal those of comparing all hashes."""

from __future__ import annotations

import io
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from diptych.errors import ConfigError
from diptych.images.decode import decode
from diptych.images.near_duplicates import (
    candidate_pairs,
    distinctive,
    full_light,
    groups_around_first,
    image_detail,
    near_pairs,
    same_image,
    same_type,
)

ANY = st.integers(0, 2**64 - 1)


@st.composite
def clustered_hashes(draw: st.DrawFn) -> list[int]:
    """A few hashes and copies of them with some bits changed, so that there are near ones at all."""
    seeds = draw(st.lists(ANY, min_size=1, max_size=5))
    flips = st.lists(st.integers(0, 63), max_size=8).map(lambda bits: sum(1 << bit for bit in set(bits)))
    copies = draw(st.lists(st.tuples(st.sampled_from(seeds), flips), max_size=25))
    return draw(st.permutations(seeds + [seed ^ flip for seed, flip in copies]))


def naive_pairs(hashes: list[int], distance: int) -> list[list[int]]:
    n = len(hashes)
    return [[i, j] for i in range(n) for j in range(i + 1, n) if (hashes[i] ^ hashes[j]).bit_count() <= distance]


@given(clustered_hashes(), st.integers(0, 15))
@settings(deadline=None)
def test_pairs_are_those_that_comparing_all_finds(hashes: list[int], distance: int) -> None:
    assert near_pairs(hashes, distance).tolist() == naive_pairs(hashes, distance)


def test_the_example_of_the_docstring() -> None:
    assert near_pairs([0b0000, 0b0011, 0b1111], 2).tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("hashes", [[], [7]])
def test_fewer_than_two_hashes_have_no_pairs(hashes: list[int]) -> None:
    assert near_pairs(hashes).shape == (0, 2)
    assert candidate_pairs(hashes).shape == (0, 2)


@pytest.mark.parametrize("distance", [-1, 16])
def test_a_distance_outside_its_range_is_refused(distance: int) -> None:
    with pytest.raises(ConfigError, match="0 to 15"):
        near_pairs([1, 2], distance)


def test_a_hundred_thousand_hashes_are_searched_in_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[70_000] = hashes[5] ^ np.uint64(0b1011)
    hashes[80_000:] = hashes[80_000]  # so many equal ones would be 200 million pairs
    begun = time.monotonic()
    pairs = candidate_pairs(hashes)
    assert time.monotonic() - begun < 30
    assert [5, 70_000] in pairs.tolist()
    assert len(pairs) == 1 + 256 * 255 // 2


def test_hashes_of_plain_images_are_not_distinctive() -> None:
    assert distinctive([0, 2**64 - 1, 0b1111111, 0x00FF00FF00FF00FF]).tolist() == [False, False, False, True]


# Pixels


def enc(image: Image.Image, format: str = "JPEG", **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format, **options)
    return decode(file.getvalue())


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def rotated_by_exif(image: Image.Image) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6
    return enc(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


COPIES = {
    "quality 50": lambda image: enc(image, quality=50),
    "quality 30": lambda image: enc(image, quality=30),
    "WebP": lambda image: enc(image, "WEBP", quality=50),
    "PNG": lambda image: enc(image, "PNG"),
    "half": lambda image: scaled(image, 0.5),
    "half, quality 60": lambda image: enc(scaled(image, 0.5), quality=60),
    "0.7, quality 70": lambda image: enc(scaled(image, 0.7), quality=70),
    "thumbnail": lambda image: scaled(image, 160 / max(image.size)),
    "enlarged": lambda image: scaled(image, 1.5),
    "turned by EXIF": rotated_by_exif,
}


def photograph(seed: int) -> Image.Image:
    """A colour scene with soft shapes and fine grain."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (800, 600), Image.Resampling.BICUBIC
    )
    brush = ImageDraw.Draw(image)
    for _ in range(30):
        left, top, size = (int(value) for value in generator.integers((0, 0, 10), (760, 560, 200)))
        brush.ellipse((left, top, left + size, top + size), tuple(map(int, generator.integers(0, 256, 3))))
    grain = generator.normal(0, 5, (600, 800, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def receipt(seed: int, changed: int | None = None) -> Image.Image:
    """A receipt of one shop; `changed` gives one of its amounts another value."""
    chance, image = random.Random(seed), Image.new("RGB", (600, 1000), (252, 252, 250))
    brush, font, ink = ImageDraw.Draw(image), ImageFont.load_default(22), (20, 20, 20)
    brush.text((300, 60), "CITY MARKET", ink, ImageFont.load_default(30), anchor="mm")
    for row in range(14):
        name, amount = chance.choice(["Milk", "Bread", "Apples", "Coffee", "Butter"]), chance.randrange(100, 9_999)
        amount = amount + 4_321 if row == changed else amount
        brush.text((50, 150 + 50 * row), f"{name} {chance.randrange(1, 9)}x", ink, font)
        brush.text((550, 150 + 50 * row), f"{amount / 100:.2f}", ink, font, anchor="ra")
    brush.text(
        (300, 930), f"2026-03-{chance.randrange(10, 28)} No {chance.randrange(10**6):06d}", ink, font, anchor="mm"
    )
    return image


def form(seed: int) -> Image.Image:
    """A form, filled in by hand."""
    chance, image = random.Random(seed), Image.new("RGB", (900, 1270), "white")
    brush, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for row in range(14):
        brush.text((60, 100 + 80 * row), ("Name", "Street", "City", "Phone")[row % 4], "black", font)
        brush.rectangle((250, 90 + 80 * row, 840, 130 + 80 * row), outline="black", width=2)
        text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz 0123456789", k=chance.randrange(5, 30)))
        brush.text((260, 98 + 80 * row), text, (20, 20, 120), font)
    return image


def invoice(number: int) -> Image.Image:
    """An A4 page at 150 dots per inch, of which only the number and the total differ."""
    image = Image.new("RGB", (1240, 1754), "white")
    brush, font = ImageDraw.Draw(image), ImageFont.load_default(28)
    brush.rectangle((60, 60, 1180, 200), outline="black", width=3)
    brush.text((90, 90), "ACME GmbH  Invoice", "black", ImageFont.load_default(60))
    for row in range(20):
        brush.text((90, 260 + row * 55), f"Item {chr(65 + row)} standard service, monthly", "black", font)
        brush.text((950, 260 + row * 55), "19.90 EUR", "black", font)
    text = f"Invoice no. {1000 + number}   Total: {300 + number}.{number:02d} EUR"
    brush.text((90, 1450), text, "black", font)
    return image


def same(first: Image.Image, second: Image.Image) -> bool:
    answers = {
        same_image(image_detail(one), image_detail(other)) and same_type(full_light(one), full_light(other))
        for one, other in ((first, second), (second, first))
    }
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("make", [photograph, receipt, form, invoice])
def test_a_copy_is_the_same_image_whatever_its_size_and_compression(make, copy: str):
    assert all(same(make(seed), COPIES[copy](make(seed))) for seed in range(3))


@pytest.mark.parametrize("copy", ["PNG", "half, quality 60", "thumbnail"])
@pytest.mark.parametrize("make", [receipt, form])
def test_thirty_receipts_and_forms_of_one_layout_are_thirty_images(make, copy: str):
    originals = [image_detail(make(seed)) for seed in range(30)]
    copies = [image_detail(COPIES[copy](make(seed))) for seed in range(30)]
    assert not [(i, j) for i in range(30) for j in range(30) if i != j and same_image(originals[i], copies[j])]


def test_one_other_amount_on_a_receipt_makes_another_image():
    assert not any(same(receipt(0), enc(receipt(0, changed), quality=80)) for changed in range(14))


@pytest.mark.parametrize("copy", ["PNG", "quality 30", "half, quality 60"])
def test_invoices_that_differ_in_a_digit_are_different_images_at_any_compression(copy: str):
    originals = [full_light(invoice(number)) for number in (3, 5, 6, 8)]
    copies = [full_light(COPIES[copy](invoice(number))) for number in (3, 5, 6, 8)]
    alike = [(i, j) for i in range(4) for j in range(4) if same_type(originals[i], copies[j])]
    assert alike == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_one_digit_in_pale_type_makes_another_image():
    pages = []
    for text in ("No. 1003", "No. 1008"):
        pages.append(Image.new("RGB", (1240, 1754), "white"))
        ImageDraw.Draw(pages[-1]).text((200, 900), text, (190, 190, 190), ImageFont.load_default(28))
    assert not same(*pages)
    assert same(pages[0], enc(pages[0], quality=50))


def test_a_shirt_in_another_colour_is_another_image():
    shirts = []
    for colour in ((190, 40, 40), (70, 70, 215)):  # equally bright
        image = Image.new("RGB", (400, 400), (240, 240, 240))
        ImageDraw.Draw(image).polygon(
            [(60, 90), (150, 50), (250, 50), (340, 90), (290, 160), (290, 350), (110, 350)], colour
        )
        shirts.append(image)
    assert not same(*shirts)
    assert same(shirts[0], enc(shirts[0], quality=40))


def test_other_proportions_and_mirrored_images_are_not_the_same():
    image = photograph(1)
    assert not same(image, image.resize((800, 500)))
    assert not same(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not same(image, image.crop((40, 30, 800, 600)))


def test_a_tiny_image_is_no_copy_of_a_large_one_but_of_one_of_its_size():
    tiny = scaled(photograph(2), 0.08)
    assert not same(photograph(2), tiny)
    assert same(tiny, enc(tiny, quality=95))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 16), (17, 400), (384, 1)])
def test_images_of_any_size_can_be_compared(size: tuple[int, int]):
    assert same(Image.new("RGB", size, "red"), Image.new("RGB", size, "red"))
    assert not same(Image.new("RGB", size, "red"), Image.new("RGB", size, "blue"))


def test_groups_are_made_around_their_first_image_and_no_pair_is_compared_in_vain():
    compared = []
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)]
    groups = groups_around_first(pairs, lambda i, j: compared.append((i, j)) or (i, j) != (0, 2))
    assert groups == [[0, 1], [2, 3]]
    assert compared == [(0, 1), (0, 2), (2, 3)]


def test_an_image_is_compared_with_few_of_many_that_are_not_the_same_and_the_likeliest_first():
    compared = []
    pairs = [(0, 3), (0, 1), *((0, other) for other in range(4, 100)), (0, 2)]
    assert groups_around_first(pairs, lambda i, j: compared.append(j) or j in (1, 3)) == [[0, 1, 3]]
    assert compared == [3, 1, *range(4, 20)]


def test_candidates_are_the_distinctive_hashes_that_are_near():
    telling = 0x0F0F_F0F0_33CC_55AA
    assert candidate_pairs([0, telling, 0, telling ^ 0b111111, telling ^ 0b1111111]).tolist() == [[3, 4], [1, 3]]
