"""Copies of one image: candidates by 64-bit perceptual hashes, and a comparison of their pixels.

A perceptual hash is no proof: all receipts of a shop, and one shirt in two colours, have nearly the same. So pairs of
near hashes are compared at finer grain (`same_image`), and those that still agree nearly at full size (`same_type`),
before they count as copies: two invoices of one layout may differ only in the digits of their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from diptych.errors import ConfigError

DISTANCE = 6
"""Largest Hamming distance, in bits of 64, at which two images may be copies. Of 350 photographs and receipts, resized
and recompressed, none was further away; 3% were further than 4 bits."""
MANY_DISTANCE = 4
"""The distance among more than `MANY` images, where each bit more takes several times as long."""
MANY = 200_000
_MIN_SET_BITS = 8
_MAX_EQUAL, _MAX_MISSES = 256, 16

DETAIL_SIDE = 384
"""Longer side, in pixels, at which two images are compared."""
MIN_DETAIL_SIDE = 96
"""Longer side below which an image shows too little to be called a smaller copy of another."""
_BLOCK_SIDE = 16
_MAX_RATIO = 0.03  # of the logarithms of two aspect ratios: a thumbnail of 160 pixels is rounded by half of one
_NOISE = 150.0  # variance that compression adds to a block, in squared levels of 255
_SMALL_SIDE = 256
_MAX_DIFFERENCE, _MAX_SMALL_DIFFERENCE = 0.45, 0.3
_MAX_OUTLIER, _SMALL_DIFFERENCE = 4.0, 0.08
_MAX_CHROMA = 12.0  # levels of 255, of the mean of a block

FULL_SIDE = 1_536
"""Longer side, in pixels, at which the type and lines of two images are compared: 6-point type of an A4 page has 11
pixels."""
_BLUR = 1.0  # pixels: takes out the noise of compression, and the edges that resampling moves
_NEIGHBOURHOOD = 9  # pixels: about the height of small type
_MAX_LEVELS, _MAX_CONTRAST, _FLAT = 45.0, 0.5, 40.0


def near_pairs(hashes: Sequence[int] | NDArray[np.uint64], distance: int = DISTANCE) -> NDArray[np.int64]:
    """All pairs of 64-bit hashes that differ in at most `distance` bits (0 to 15): (pairs, 2), i < j, sorted.

    The bits are dealt into `distance + 1` bands. By the pigeonhole principle, two hashes that differ in at most
    `distance` bits agree in at least one band, so only hashes with an equal band are compared. The result is exact.

    Example: for 0b0000, 0b0011 and 0b1111 at distance 2, the pairs are (0, 1) and (1, 2).

    Raises:
        ConfigError: `distance` is outside 0 to 15.
    """
    if not 0 <= distance < 16:
        raise ConfigError(f"distance is {distance} bits; near-duplicates differ in 0 to 15 of 64 bits")
    values = np.asarray(hashes, np.uint64)  # (n,)
    pairs = [_pairs_in_band(values, values & _band(band, distance + 1), distance) for band in range(distance + 1)]
    return np.unique(np.concatenate(pairs), axis=0)


def candidate_pairs(hashes: Sequence[int] | NDArray[np.uint64], distance: int | None = None) -> NDArray[np.int64]:
    """The pairs of images that may be copies by their hashes, (pairs, 2): i < j, sorted by distance.

    Hashes that are not `distinctive` are in no pair, nor are images of one hash beyond the first 256 of them, so that
    thousands of forms of one layout do not make millions of pairs. The distance is `DISTANCE` by default, or
    `MANY_DISTANCE` for many images.

    Raises:
        ConfigError: `distance` is outside 0 to 15.
    """
    values = np.asarray(hashes, np.uint64)
    distance = distance if distance is not None else DISTANCE if len(values) <= MANY else MANY_DISTANCE
    usable = np.flatnonzero(distinctive(values))
    usable = usable[_number_among_equals(values[usable]) < _MAX_EQUAL]
    pairs = usable[near_pairs(values[usable], distance)]
    return pairs[np.argsort(_count_bits(values[pairs[:, 0]] ^ values[pairs[:, 1]]), kind="stable")]


def _number_among_equals(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each value, how many of the values before it are equal, (n,)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]]) if len(values) else order
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return numbers


def groups_around_first(pairs: Iterable[Sequence[int]], is_same: Callable[[int, int], bool]) -> list[list[int]]:
    """Groups of two or more indices in ascending order: the first of each, and those that are the same as the first.

    Indices come in order of preference. No chain of small changes leads from one image of a group to another: every
    member was compared with the first. `is_same` is only called for `pairs` of which neither is in a group already, for
    each first index in the order of its pairs, the likeliest first, and until it was wrong 16 times: among many
    documents of one layout, each is compared with a few.

    Example: for the pairs (0, 1), (1, 2) and (2, 3), all the same, the groups are [0, 1] and [2, 3].
    """
    neighbours: dict[int, list[int]] = {}
    for pair in pairs:
        first, second = sorted(map(int, pair))
        neighbours.setdefault(first, []).append(second)
    grouped: set[int] = set()
    groups = []
    for first in sorted(neighbours):
        if first in grouped:
            continue
        others, misses = [], 0
        for other in neighbours[first]:
            if other in grouped or misses == _MAX_MISSES:
                continue
            if is_same(first, other):
                others.append(other)
            else:
                misses += 1
        if others:
            grouped.update(others)
            groups.append([first, *sorted(others)])
    return groups


@dataclass(frozen=True, slots=True)
class ImageDetail:
    """What `same_image` compares of an image.

    `size` is that of the image in pixels, `grid` the number of columns and rows of 16 x 16 pixels into which it is
    divided, `light` the brightness at that size, and `colours` the image in YCbCr at a quarter of it.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    light: Image.Image
    colours: Image.Image

    def blocks(self, grid: tuple[int, int]) -> NDArray[np.float32]:
        """The brightness of each block of a grid, (rows, columns, pixels)."""
        columns, rows = grid
        light = self.light
        if grid != self.grid:
            size = columns * _BLOCK_SIDE, rows * _BLOCK_SIDE
            light = light.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        values = np.asarray(light, np.float32).reshape(rows, _BLOCK_SIDE, columns, _BLOCK_SIDE)
        return values.swapaxes(1, 2).reshape(rows, columns, _BLOCK_SIDE**2)

    def chroma(self, grid: tuple[int, int]) -> NDArray[np.int16]:
        """The mean colour of each block of a grid, (rows, columns, 2)."""
        return np.asarray(self.colours.resize(grid, Image.Resampling.BOX), np.int16)[..., 1:]


def image_detail(image: Image.Image) -> ImageDetail:
    """What is compared of an image: its longer side is reduced to `DETAIL_SIDE` pixels, and both to whole blocks."""
    scale = min(1.0, DETAIL_SIDE / max(image.size))
    columns, rows = (max(1, round(side * scale / _BLOCK_SIDE)) for side in image.size)
    size = columns * _BLOCK_SIDE, rows * _BLOCK_SIDE
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert("YCbCr")
    return ImageDetail(image.size, (columns, rows), small.getchannel(0), small.reduce(4))


def same_image(first: ImageDetail, second: ImageDetail) -> bool:
    """Whether two images show the same, but for their size and compression.

    Both are brought to the size of the smaller one. In each block of 16 x 16 pixels, the mean squared difference of
    brightness is divided by the mean variance of the two blocks: 0 for equal blocks, about 2 for unrelated ones. The
    images differ if a block exceeds 0.45 (0.3 below 256 pixels), or four times what nine tenths of the blocks with any
    structure have (one amount of a receipt), or if the mean colour of a block differs by more than 12 levels. Images
    of other proportions are not the same, nor is an image of less than 96 pixels a copy of a larger one.

    The limits lie between 140 photographs, receipts and forms at half the size, at 160 pixels and at JPEG quality 30
    (differences up to 0.40) and pairs of different receipts and forms (from 0.46 at 160 pixels, 1.04 at full size).
    """
    too_small = first.size != second.size and min(max(first.size), max(second.size)) < MIN_DETAIL_SIDE
    if too_small or not _same_shape(first.size, second.size):
        return False
    grid = min(first.grid, second.grid, key=max)
    if np.abs(first.chroma(grid) - second.chroma(grid)).max() > _MAX_CHROMA:
        return False
    light, other_light = first.blocks(grid), second.blocks(grid)
    structure = (light.var(2) + other_light.var(2)) / 2
    differences = np.square(light - other_light).mean(2) / (structure + _NOISE)
    largest = float(differences.max())
    if largest <= _SMALL_DIFFERENCE:
        return True
    usual = differences[structure > _NOISE]
    outlier = largest / (float(np.percentile(usual, 90)) + 0.02) if usual.size else math.inf
    limit = _MAX_DIFFERENCE if max(grid) * _BLOCK_SIDE >= _SMALL_SIDE else _MAX_SMALL_DIFFERENCE
    return largest <= limit and outlier <= _MAX_OUTLIER


def full_light(image: Image.Image) -> Image.Image:
    """The brightness of an image at its own size, or at `FULL_SIDE` pixels if it is larger, for `same_type`."""
    scale = min(1.0, FULL_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("L").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def same_type(first: Image.Image, second: Image.Image) -> bool:
    """Whether no character, line or speck differs between two images from `full_light` that are otherwise the same.

    Both are brought to the size of the smaller one and blurred by a pixel. They differ if a single pixel differs by
    more than 45 levels, or by more than half of the contrast around it: a mean over an area would lose thin type.

    Photographs and invoices at 0.5 to 1.5 times their size, at JPEG quality 10 to 60 and as WebP differ by at most 30
    levels; a changed digit in the number of an invoice by 83 or more at half of 150 dots per inch. What a smaller copy
    no longer shows cannot be compared.
    """
    size = min(first.size, second.size, key=sorted)
    one, other = (_blurred(image, size) for image in (first, second))
    difference = np.asarray(ImageChops.difference(one, other), np.float32)  # (height, width)
    if difference.max() > _MAX_LEVELS:
        return False
    brightest = np.asarray(ImageChops.lighter(one, other).filter(ImageFilter.MaxFilter(_NEIGHBOURHOOD)), np.float32)
    darkest = np.asarray(ImageChops.darker(one, other).filter(ImageFilter.MinFilter(_NEIGHBOURHOOD)), np.float32)
    return bool((difference <= _MAX_CONTRAST * (brightest - darkest + _FLAT)).all())


def _blurred(light: Image.Image, size: tuple[int, int]) -> Image.Image:
    light = light if light.size == size else light.resize(size, Image.Resampling.LANCZOS)
    return light.filter(ImageFilter.GaussianBlur(_BLUR))


def _same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    ratio = math.log(first[0] * second[1] / (first[1] * second[0]))
    return abs(ratio) <= max(_MAX_RATIO, 1 / min(*first, *second))


def distinctive(hashes: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each hash can tell images apart, (n,): False where nearly all of its bits are equal.

    Plain areas set no bits, so blank pages and logos on a plain background all hash close to 0, however different they
    are.
    """
    set_bits = _count_bits(np.asarray(hashes, np.uint64))
    return (set_bits >= _MIN_SET_BITS) & (set_bits <= 64 - _MIN_SET_BITS)


def _band(band: int, bands: int) -> np.uint64:
    """A mask of every `bands`-th bit. Neighbouring bits are correlated, so contiguous bands would be unbalanced."""
    return np.uint64(sum(1 << bit for bit in range(band, 64, bands)))


def _pairs_in_band(values: NDArray[np.uint64], keys: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Near pairs among the values whose keys are equal: (pairs, 2).

    Values are sorted by key, and each is compared with the one `step` places later, for growing `step` while the keys
    still agree. Memory stays O(n), however many values share a key.
    """
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    pairs = [np.empty((0, 2), np.int64)]
    first, step = np.arange(len(values)), 1
    while len(first):
        first = first[first + step < len(values)]
        first = first[keys[first] == keys[first + step]]
        near = first[_count_bits(values[first] ^ values[first + step]) <= distance]
        pairs.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
        step += 1
    return np.concatenate(pairs)


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    bits = np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8), axis=1)
    return bits.sum(axis=1, dtype=np.int64)
