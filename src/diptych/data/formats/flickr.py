"""Flickr8k and Flickr30k: captions.txt, token files and results.csv, with the split lists next to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from diptych.data.formats.delimited import two_fields
from diptych.data.formats.encoding import clean, open_text, split_of
from diptych.data.formats.image_paths import ImagePaths
from diptych.data.pairs import Row
from diptych.errors import DataError


def read_captions(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read Kaggle's Flickr8k: a header `image,caption`, then one caption a line, quoted or not."""
    split = _split_lists(path, images)
    for number, name, caption in two_fields(path):
        if number > 1 or (name, clean(caption)) != ("image", "caption"):
            where, name = f"'{path}', line {number}", name.strip()
            yield Row(name, images.find(name, where), (clean(caption),), split(name))


def read_token(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read the original token files: one `name.jpg#0<TAB>caption` a line."""
    split = _split_lists(path, images)
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"'{path}', line {number}"
            key, tab, caption = line.partition("\t")
            name = key.rpartition("#")[0].strip()
            if not tab or not name:
                raise DataError(f"{where} is not 'name.jpg#0<TAB>caption': '{line[:60].strip()}'; fix or remove it")
            yield Row(name, images.find(name, where), (clean(caption),), split(name))


# One line of the published results.csv lacks its second delimiter: "2199200615.jpg| 4   A dog runs across the grass ."
_RESULT = re.compile(r"(?P<name>[^|]+)\|\s*\d+\s*(?:\||\s)(?P<caption>.*)", re.DOTALL)


def read_results(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read Kaggle's Flickr30k: a header `image_name| comment_number| comment`, then one caption a line."""
    split = _split_lists(path, images)
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or (number == 1 and line.startswith("image_name")):
                continue
            where = f"'{path}', line {number}"
            if not (match := _RESULT.fullmatch(line)):
                raise DataError(f"{where} is not 'name.jpg| 0| caption': '{line[:60].strip()}'; fix or remove it")
            name = match["name"].strip()
            yield Row(name, images.find(name, where), (clean(match["caption"]),), split(name))


def _split_lists(captions: Path, images: ImagePaths) -> Callable[[str], str | None]:
    """A function from image name to split, from lists such as `Flickr_8k.trainImages.txt` next to the caption file.

    Without lists, every image has the split named by the caption file, if any.
    """
    lists: dict[str, str] = {}
    for path in sorted(captions.absolute().parent.glob("*Images.txt")):
        if match := re.search(r"(train|dev|val|test)Images\.txt$", path.name):
            with open_text(path) as file:
                lists.update({line.strip(): match[1] for line in file if line.strip()})
    fallback = None if lists else split_of(captions, images.base)
    return lambda name: lists.get(name, fallback)
