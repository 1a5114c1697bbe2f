"""Samples of files with the same stem: WebDataset shards (tar), and image folders with .txt sidecars."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from diptych.data.formats.encoding import caption_text, folder_split, open_text, split_of
from diptych.data.formats.image_paths import ImagePaths, image_files
from diptych.data.formats.tables import Columns, caption_list
from diptych.data.formats.tar import Member, is_hidden_member, members
from diptych.data.pairs import Row
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError
from diptych.images.decode import MAX_BYTES, ImageSource, Slice
from diptych.images.suffixes import is_image_file
from diptych.runtime.files import MAX_PATTERN_FILES, MAX_RECORD

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CAPTION_PARTS = ("txt", "caption", "json")  # in order of preference


def read_shard(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read a WebDataset shard: adjacent members with the same key (the name up to its first dot) form a sample.

    Where that rule would merge different images (keys such as `v1.0000` and `v1.0001`), each image with the members of
    its own stem is a sample; see `_belong_together`. Members that belong to no image are noted.

    Images in an uncompressed tar are referenced by offset; images in a compressed tar are yielded as bytes. The image
    id is `shard/key`, since keys often repeat between shards; a shard in a subfolder is named with its folder.
    """
    shard = _Shard(path, path.name.lower().endswith("gz"), images.notes)
    name = _shard_name(path, images.base)
    split = split_of(path, images.base)
    for sample in _samples(shard):
        yield Row(f"{name}/{sample.key}", *sample.content(), split)


def _shard_name(path: Path, base: Path) -> str:
    """The name of a shard in image ids: its path below `base`, without the suffix."""
    path = path.absolute()
    whole = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
    folder, _, name = whole.rpartition("/")
    return f"{folder}/{_without_suffix(name)}".lstrip("/")


def _without_suffix(name: str) -> str:
    return name.split(".tar")[0].removesuffix(".tgz")


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that is being read."""

    path: Path
    packed: bool  # with gzip: a member is read before the next
    notes: ReadingNotes

    def note_unused(self, name: str, reason: str) -> None:
        """Count a member that is not used."""
        self.notes.add("unused_members", f"{self.path.name}/{name}", reason)


@dataclass
class _Sample:
    """Adjacent members of one sample: an image, and its texts by kind."""

    shard: _Shard
    key: str  # up to the first dot of the name
    stem: str  # up to the last dot
    image: ImageSource | None = None
    image_name: str = ""
    texts: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)  # of members that are lost without an image
    spare: list[str] = field(default_factory=list)  # names of texts beyond the first of their kind

    def add(self, member: Member) -> None:
        """Take a member: the image, or a text; a second image is noted as unused, and other members have no use."""
        part = member.name.rpartition(".")[2].lower()
        if is_image_file(member.name):
            if self.image is not None:
                self.shard.note_unused(member.name, f"a second image of the sample '{self.key}'")
                return
            # For a compressed tar, read one byte over the limit, so that decoding fails.
            packed = self.shard.packed
            self.image = (
                member.read(MAX_BYTES + 1) if packed else Slice(self.shard.path.absolute(), member.offset, member.size)
            )
            self.image_name = member.name
        elif part in _CAPTION_PARTS:
            if member.size > MAX_RECORD:
                raise DataError(
                    f"'{self.shard.path}': the text '{member.name}' has {member.size:,} bytes, the limit is "
                    f"{MAX_RECORD:,}; remove it from the shard"
                )
            self.texts.setdefault(part, member.read(MAX_RECORD))
        if self.image is None:
            self.names.append(member.name)

    def take(self, other: _Sample) -> None:
        """Take the members of another part of the same sample."""
        if self.image is not None and other.image is not None:
            self.shard.note_unused(other.image_name, f"a second image of the sample '{self.key}'")
        elif other.image is not None:
            self.image, self.image_name = other.image, other.image_name
        self.spare += [f"{other.stem}.{kind}" for kind in self.texts.keys() & other.texts.keys()] + other.spare
        self.texts = {**other.texts, **self.texts}
        self.names += other.names

    def content(self) -> tuple[ImageSource, tuple[str, ...]]:
        """The image and its captions."""
        assert self.image is not None
        return self.image, _sample_captions(self.texts, self.key)


def _samples(shard: _Shard) -> Iterator[_Sample]:
    """The samples of a shard with an image."""
    for _, parts in groupby(_stems(shard), lambda part: part.key):
        pending: _Sample | None = None
        is_dotted = False
        for part in parts:
            if pending is None:
                pending = part
            elif _belong_together(pending, part):
                pending.take(part)
            else:
                is_dotted = True
                yield from _finished(pending, is_dotted=True)
                pending = part
        if pending is not None:
            yield from _finished(pending, is_dotted=is_dotted)


def _finished(sample: _Sample, *, is_dotted: bool) -> Iterator[_Sample]:
    """The sample under its final key, or nothing if it has no image."""
    if sample.image is None:
        for name in sample.names:
            sample.shard.note_unused(name, "no image lies beside it under this name")
        return
    for name in sample.spare:
        sample.shard.note_unused(name, f"a second text of the sample '{sample.key}'")
    if is_dotted:
        sample.key = sample.image_name.rpartition(".")[0].removeprefix("./").lstrip("/")
        sample.shard.notes.add("dotted_keys", f"{sample.shard.path.name}/{sample.image_name}", f"key '{sample.key}'")
    yield sample


def _belong_together(first: _Sample, second: _Sample) -> bool:
    """Whether two parts with the same key are one sample, as WebDataset's rule has it.

    They are not, if one of them has an image and neither stem is the key (`k.jpg`) or continues the other
    (`k.0.jpg` and `k.0.seg.png`), and the stems differ in digits (`v1.0000` and `v1.0001`) or both have an image and a
    text of their own.
    """
    stems = (first.stem, second.stem)
    if (first.image is None and second.image is None) or first.key in stems:
        return True
    if stems[0] == stems[1] or stems[0].startswith(f"{stems[1]}.") or stems[1].startswith(f"{stems[0]}."):
        return True
    if all(part.image is not None and part.texts for part in (first, second)):
        return False
    return not any(character.isdigit() for stem in stems for character in stem[len(first.key) :])


def _stems(shard: _Shard) -> Iterator[_Sample]:
    """Adjacent members with the same stem. Hidden members, such as macOS's `._a.jpg`, are left out."""
    current: _Sample | None = None
    for member in members(shard.path, packed=shard.packed):
        if is_hidden_member(member.name):
            continue
        if "." not in member.name.rpartition("/")[2]:
            shard.note_unused(member.name, "its name has no suffix")
            continue
        stem = member.name.rpartition(".")[0].removeprefix("./").lstrip("/")
        if current is None or stem != current.stem:
            if current is not None:
                yield current
            current = _Sample(shard, _key(member), stem)
        current.add(member)
    if current is not None:
        yield current


def _key(member: Member) -> str:
    parent, _, name = member.name.rpartition("/")
    return f"{parent}/{name.split('.')[0]}".removeprefix("./").lstrip("/")


def _sample_captions(texts: dict[str, bytes], where: str) -> tuple[str, ...]:
    """The captions of the first part with any; if all are empty, those of the first part."""
    found = [_part_captions(part, texts, where) for part in _CAPTION_PARTS if part in texts]
    return next((captions for captions in found if any(captions)), next(filter(None, found), ()))


def _part_captions(part: str, texts: dict[str, bytes], where: str) -> tuple[str, ...]:
    text = texts[part].decode("utf-8-sig", "diptych_cp1252")
    if part != "json":
        return tuple(caption_list(text))
    try:
        record = json.loads(text)
        columns = Columns.find(["image", *record], where) if isinstance(record, dict) else None
    except (ValueError, RecursionError, DataError):
        return ()  # metadata without a caption
    return tuple(text for name in columns.captions for text in caption_list(record[name])) if columns else ()


def expand(pattern: str) -> list[Path]:
    """Expand a pattern to paths: braces `{000..003}` and `{a,b}` as in a shell, and the wildcards `*`, `?` and `[...]`.

    Raises:
        DataError: the pattern expands to more than `MAX_PATTERN_FILES` paths, or has too many braces.
    """
    if pattern.count("{") > _MAX_BRACES:
        raise DataError(f"'{pattern[:80]}' has more than {_MAX_BRACES} braces; use `*`, or pass the folder")
    has_wildcards = re.search(r"[*?\[]", pattern) is not None
    limit = _MAX_SEARCHES if has_wildcards else MAX_PATTERN_FILES
    names = list(islice(_expanded(pattern), limit + 1))
    if len(names) > limit:
        raise DataError(f"'{pattern[:80]}' names more than {limit:,} files; use a smaller range, or pass the folder")
    if has_wildcards:
        return [Path(path) for name in names for path in sorted(glob.glob(name))]  # noqa: PTH207 (Path.glob does not accept absolute patterns)
    return [Path(name) for name in names]


_MAX_BRACES = 8
_MAX_SEARCHES = 1_000  # wildcard patterns; each lists a folder


def _expanded(pattern: str) -> Iterator[str]:
    """Expand braces lazily, since a range may be arbitrarily long."""
    if not (match := re.search(r"\{([^{}]*)\}", pattern)):
        yield pattern
        return
    values: Iterator[str]
    if bounds := re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", match[1]):
        width = len(bounds[1]) if bounds[1].startswith("0") else 0
        values = (f"{value:0{width}d}" for value in range(int(bounds[1]), int(bounds[2]) + 1))
    else:
        values = iter(match[1].split(","))
    for value in values:
        yield from _expanded(pattern[: match.start()] + value + pattern[match.end() :])


def read_sidecars(folder: Path, images: ImagePaths) -> Iterator[Row]:
    """Read a folder of images with captions in `.txt` files of the same stem, one caption a line."""
    folder = folder.absolute()
    for path in image_files(folder):
        sidecar = path.with_suffix(".txt")
        captions: tuple[str, ...] = ()
        if sidecar.is_file() and images.roots.contains(sidecar):
            with open_text(sidecar) as file:
                captions = tuple(caption_text(line) for line in _lines(file, sidecar) if line.strip()) or ("",)
        yield Row(path.relative_to(folder).as_posix(), path, captions, folder_split(path, folder))


def _lines(file: Iterable[str], sidecar: Path) -> Iterator[str]:
    size = 0
    for line in file:
        if (size := size + len(line)) > MAX_RECORD:
            raise DataError(f"'{sidecar}' has more than {MAX_RECORD:,} characters, too many for captions; move it away")
        yield line
