"""Flickr8k and Flickr30k: captions.txt, token files and results.csv, with the split lists next to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diptych.data.formats.delimited import two_fields
from diptych.data.formats.encoding import caption_text, clean, open_text, split_of
from diptych.data.formats.image_paths import ImagePaths
from diptych.data.formats.tables import caption_list
from diptych.data.joins import JoinReport, Tally
from diptych.data.pairs import Row
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.walk import is_hidden


def read_captions(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read Kaggle's Flickr8k: a header `image,caption`, then one caption a line, quoted or not."""
    lists = _SplitLists.read(path, images)
    for number, name, caption in two_fields(path):
        if number > 1 or (name, clean(caption)) != ("image", "caption"):
            where, name = f"'{path}', line {number}", name.strip()
            yield Row(name, images.find(name, where), tuple(caption_list(caption)), lists.split(name))
    lists.note()


def read_token(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read the original token files: one `name.jpg#0<TAB>caption` a line."""
    lists = _SplitLists.read(path, images)
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"'{path}', line {number}"
            key, tab, caption = line.partition("\t")
            name = key.rpartition("#")[0].strip()
            if not tab or not name:
                raise DataError(f"{where} is not 'name.jpg#0<TAB>caption': '{line[:60].strip()}'; fix or remove it")
            yield Row(name, images.find(name, where), (caption_text(caption),), lists.split(name))
    lists.note()


# One line of the published results.csv lacks its second delimiter: "2199200615.jpg| 4   A dog runs across the grass ."
_RESULT = re.compile(r"(?P<name>[^|]+)\|\s*\d+\s*(?:\||\s)(?P<caption>.*)", re.DOTALL)


def read_results(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read Kaggle's Flickr30k: a header `image_name| comment_number| comment`, then one caption a line."""
    lists = _SplitLists.read(path, images)
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or (number == 1 and line.startswith("image_name")):
                continue
            where = f"'{path}', line {number}"
            if not (match := _RESULT.fullmatch(line)):
                raise DataError(f"{where} is not 'name.jpg| 0| caption': '{line[:60].strip()}'; fix or remove it")
            name = match["name"].strip()
            yield Row(name, images.find(name, where), (caption_text(match["caption"]),), lists.split(name))
    lists.note()


@dataclass
class _SplitLists:
    """The split of each image name, from lists such as `Flickr_8k.trainImages.txt` next to the caption file.

    Without lists, every image has the split named by the caption file, if any.
    """

    captions: Path
    notes: ReadingNotes
    fallback: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)  # names that have captions
    repeated: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, captions: Path, images: ImagePaths) -> _SplitLists:
        """The lists next to `captions`."""
        lists = cls(captions, images.notes)
        for path in sorted(captions.absolute().parent.glob("*Images.txt")):
            match = re.search(r"(train|dev|val|test)Images\.txt$", path.name)
            if match and not is_hidden(path.name):
                lists._add(path, match[1])
        if not lists.splits:
            lists.fallback = split_of(captions, images.base)
        return lists

    def _add(self, path: Path, split: str) -> None:
        with open_text(path) as file:
            for name in filter(None, map(str.strip, file)):
                if self.splits.setdefault(name, split) != split:
                    self.repeated.append(name)

    def split(self, name: str) -> str | None:
        """The split of an image that has a caption."""
        if self.splits:
            self.seen[name] = None
        return self.splits.get(name, self.fallback)

    def note(self) -> None:
        """Note the names that only the lists or only the captions have, once all captions were read."""
        if not self.splits:
            return
        for name in self.seen:
            if name not in self.splits:
                self.notes.add("without_split", name, f"in none of the lists beside '{self.captions.name}'")
        unseen = Tally.of(name for name in self.splits if name not in self.seen)
        left, right = f"split lists beside '{self.captions.name}'", "images with captions"
        self.notes.add_join(JoinReport(left, right, left_only=unseen, repeated=Tally.of(self.repeated)))
