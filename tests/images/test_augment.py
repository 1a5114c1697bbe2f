"""Image augmentation: reproducible by its key, and never one that makes a caption wrong."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from diptych.errors import ConfigError
from diptych.images.augment import AUGMENTATIONS, augmentation, draw, light, names_a_side, random_resized_crop, strong
from tests.broken import make_image


def gradient(width: int, height: int) -> Image.Image:
    """Red rises from left to right and green from top to bottom, so that a pixel says where it came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def window(image: Image.Image) -> tuple[float, float]:
    """The shares of the gradient's width and height that a crop of it shows."""
    pixels = np.asarray(image, dtype=float)
    return np.ptp(pixels[..., 0]) / 255, np.ptp(pixels[..., 1]) / 255


@pytest.mark.parametrize("name", ["light", "strong"])
def test_the_same_key_gives_the_same_view_in_any_thread(name: str) -> None:
    augment = augmentation(name)
    assert augment is not None
    image = make_image(1, (64, 48))

    def view(epoch: int) -> bytes:
        return augment(image, 32, draw(0, epoch, "a.jpg"), True).tobytes()

    with ThreadPoolExecutor(4) as pool:
        views = list(pool.map(view, [*range(8)] * 2))
    assert views[:8] == views[8:] == [view(epoch) for epoch in range(8)]
    assert len(set(views)) == 8


def test_random_numbers_depend_on_all_parts_of_the_key_only() -> None:
    keys = [(0, 1, "a"), (1, 0, "a"), (0, 1, "b"), (0, "1a")]
    first = [draw(*key).random() for key in keys]
    random.seed(5)
    assert [draw(*key).random() for key in keys] == first
    assert len(set(first)) == len(keys)


@pytest.mark.parametrize("size", [(300, 200), (40, 200), (1, 500), (7, 7)])
def test_a_crop_is_a_square_of_the_requested_size_inside_the_image(size: tuple[int, int]) -> None:
    for seed in range(50):
        crop = random_resized_crop(gradient(*size), 24, random.Random(seed))
        assert crop.size == (24, 24)
        assert np.asarray(crop)[..., 2].max() == 0  # blue would have come from outside


def test_a_crop_covers_half_to_all_of_the_image_and_changes_its_aspect_by_a_third_at_most() -> None:
    shares = np.array([window(random_resized_crop(gradient(400, 300), 64, random.Random(seed))) for seed in range(300)])
    area, bend = shares.prod(axis=1), shares[:, 0] / shares[:, 1]
    assert area.min() > 0.4  # resizing takes the outermost pixels' mean, so a little less than 0.5 is seen
    assert area.min() < 0.6
    assert area.max() > 0.9
    assert bend.min() > 3 / 4 - 0.05
    assert bend.max() < 4 / 3 + 0.05


def test_half_of_the_light_views_are_mirrored_and_none_if_disabled() -> None:
    def mirrored(allowed: bool) -> int:
        views = (np.asarray(light(gradient(80, 80), 16, random.Random(seed), allowed)) for seed in range(400))
        return sum(int(view[8, 0, 0]) > int(view[8, -1, 0]) for view in views)

    assert 150 < mirrored(True) < 250
    assert mirrored(False) == 0


def test_the_mirror_option_changes_nothing_else() -> None:
    for seed in range(20):
        free = light(make_image(3), 32, random.Random(seed), True)
        kept = light(make_image(3), 32, random.Random(seed), False)
        assert free.tobytes() in (kept.tobytes(), ImageOps.mirror(kept).tobytes())


def test_strong_views_change_brightness_contrast_and_saturation_but_light_ones_do_not() -> None:
    plain = Image.new("RGB", (32, 32), (180, 90, 60))
    assert all(light(plain, 8, random.Random(s), True).getpixel((4, 4)) == (180, 90, 60) for s in range(20))
    colours = np.array([strong(plain, 8, random.Random(s), True).getpixel((4, 4)) for s in range(200)], dtype=float)
    brightness = colours.mean(axis=1) / 110
    saturation = np.ptp(colours, axis=1) / np.ptp([180, 90, 60])
    for change in (brightness, saturation):
        assert change.min() < 0.8
        assert change.max() > 1.2
    busy = gradient(64, 64)
    spread = [float(np.asarray(strong(busy, 16, random.Random(s), True).convert("L")).std()) for s in range(100)]
    assert max(spread) > 1.5 * min(spread)


@pytest.mark.parametrize(
    ("caption", "sided"),
    [
        ("A dog to the left of a tree", True),
        ("RIGHT behind him", True),
        ("a bright light", False),
        ("leftover food", False),
        ("", False),
    ],
)
def test_a_caption_with_left_or_right_disables_mirroring(caption: str, sided: bool) -> None:
    assert names_a_side(["a dog", caption]) == sided


def test_a_picture_is_not_changed_by_augmenting_it() -> None:
    image = make_image(2)
    before = image.tobytes()
    for augment in filter(None, AUGMENTATIONS.values()):
        augment(image, 16, random.Random(0), True)
    assert image.tobytes() == before


def test_none_is_a_name_and_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert augmentation("none") is None
    with pytest.raises(ConfigError, match="did you mean 'strong'"):
        augmentation("stron")
