"""Comparison of images by their pixels, read when they are first needed and remembered for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from PIL import Image

from diptych.errors import DiptychError
from diptych.images.decode import ImageSource, decode
from diptych.images.near_duplicates import (
    DETAIL_SIDE,
    FULL_SIDE,
    ImageDetail,
    full_light,
    image_detail,
    same_image,
    same_type,
)

Key = TypeVar("Key")
Value = TypeVar("Value")

_MAX_DETAILS = 512  # of 0.15 MB each
_MAX_FULL = 32  # of 2 MB each
_MAX_ANSWERS = 65_536


class PixelComparison:
    """Compares rows of images by `near_duplicates.same_image` and, where they agree, `same_type`.

    Images that were read, and answers, are remembered in the process by their key, so that a query that is repeated
    reads nothing. An image that cannot be read is the same as no other. Safe to call from many threads.

    Args:
        keys: what identifies the content of each row, such as its content hash.
        source: the image of a row.
    """

    def __init__(self, keys: Sequence[str], source: Callable[[int], ImageSource]) -> None:
        self.keys, self.source = keys, source

    def __call__(self, first: int, second: int) -> bool:
        """Whether two rows show the same image."""
        pair = (self.keys[first], self.keys[second])
        answer = _ANSWERS.get(pair)
        if answer is None:
            try:
                answer = same_image(self._detail(first), self._detail(second)) and same_type(
                    self._full(first), self._full(second)
                )
            except DiptychError:  # not remembered: a drive may be connected later
                return False
            _ANSWERS.put(pair, answer)
        return answer

    def _detail(self, row: int) -> ImageDetail:
        detail = _DETAILS.get(self.keys[row])
        if detail is None:
            detail = image_detail(decode(self.source(row), min_side=DETAIL_SIDE))
            _DETAILS.put(self.keys[row], detail)
        return detail

    def _full(self, row: int) -> Image.Image:
        light = _FULL.get(self.keys[row])
        if light is None:
            light = full_light(decode(self.source(row), min_side=FULL_SIDE))
            _FULL.put(self.keys[row], light)
        return light


class _Recent(Generic[Key, Value]):
    """The items that were used last, for several threads."""

    def __init__(self, most: int) -> None:
        self._most, self._items, self._lock = most, OrderedDict[Key, Value](), threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._items[key] = value
            while len(self._items) > self._most:
                self._items.popitem(last=False)


_DETAILS: _Recent[str, ImageDetail] = _Recent(_MAX_DETAILS)
_FULL: _Recent[str, Image.Image] = _Recent(_MAX_FULL)
_ANSWERS: _Recent[tuple[str, str], bool] = _Recent(_MAX_ANSWERS)
