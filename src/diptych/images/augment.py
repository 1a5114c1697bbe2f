"""Image augmentation with reproducible randomness: crops, flips and colour jitter."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable

from PIL import Image, ImageEnhance, ImageOps

from diptych.errors import ConfigError, did_you_mean

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def draw(*key: object) -> random.Random:
    """A random generator seeded by `key`, so that the same key gives the same view in any thread or process."""
    return random.Random(hashlib.sha256("\0".join(map(str, key)).encode()).digest())


def names_a_side(captions: Iterable[str]) -> bool:
    """Whether a caption contains the word left or right, so that mirroring its image would make it wrong."""
    return any(_SIDES.search(caption) for caption in captions)


def sides_key(captions: Iterable[Iterable[str]]) -> str:
    """A hash of `names_a_side` for the captions of each image, for the cache key of mirrored views."""
    named = bytes(map(names_a_side, captions))
    return hashlib.sha256(named).hexdigest()[:8]


def random_resized_crop(
    image: Image.Image, size: int, rng: random.Random, area: tuple[float, float] = (0.5, 1.0)
) -> Image.Image:
    """A random window with a share of the image's area between the bounds of `area`, resized to `size` x `size`.

    The aspect ratio changes by a factor of up to 4/3. Sampling follows torchvision's `RandomResizedCrop` (Szegedy et
    al. 2015), clamped to the image.
    """
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))) * image.width / image.height
    share = rng.uniform(*area) * image.width * image.height
    width = min(image.width, math.sqrt(share * ratio))
    height = min(image.height, math.sqrt(share / ratio))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    window = (left, top, left + width, top + height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=window)


def light(image: Image.Image, size: int, rng: random.Random, mirror: bool) -> Image.Image:
    """A crop of at least half the image, flipped horizontally with probability 1/2 if `mirror`."""
    image = random_resized_crop(image, size, rng)
    return ImageOps.mirror(image) if rng.random() < 0.5 and mirror else image


def strong(image: Image.Image, size: int, rng: random.Random, mirror: bool) -> Image.Image:
    """`light`, then brightness, contrast and saturation each scaled by a factor in [0.6, 1.4]."""
    image = light(image, size, rng, mirror)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.6, 1.4))
    return image


AUGMENTATIONS: dict[str, Callable[[Image.Image, int, random.Random, bool], Image.Image] | None] = {
    "none": None,
    "light": light,
    "strong": strong,
}


def augmentation(name: str) -> Callable[[Image.Image, int, random.Random, bool], Image.Image] | None:
    """The augmentation of a name; None for `none`.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in AUGMENTATIONS:
        raise ConfigError(f"no augmentation is called '{name}'; {did_you_mean(name, AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
