"""Samples of files with the same stem: WebDataset shards (tar), and image folders with .txt sidecars."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from diptych.data.formats.encoding import clean, folder_split, open_text, split_of
from diptych.data.formats.image_paths import ImagePaths, image_files
from diptych.data.formats.tables import Columns, caption_list
from diptych.data.formats.tar import Member, members
from diptych.data.pairs import Row
from diptych.errors import DataError
from diptych.images.decode import MAX_BYTES, ImageSource, Slice
from diptych.images.suffixes import is_image_file
from diptych.images.walk import is_hidden
from diptych.runtime.files import MAX_PATTERN_FILES, MAX_RECORD

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CAPTION_PARTS = ("txt", "caption", "json")  # in order of preference


def read_shard(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read a WebDataset shard: adjacent members with the same key (the name up to its first dot) form a sample.

    Images in an uncompressed tar are referenced by offset; images in a compressed tar are yielded as bytes. The image
    id is `shard/key`, since keys often repeat between shards.
    """
    packed = path.name.lower().endswith("gz")
    shard = path.name.split(".tar")[0].removesuffix(".tgz")
    split = split_of(path, images.base)
    files = (member for member in members(path, packed=packed) if _is_part(member.name))
    for key, sample in groupby(files, _key):
        yield from _sample_rows(f"{shard}/{key}", sample, path, packed, split)


def _is_part(name: str) -> bool:
    """Whether a member can be a part of a sample: it has a suffix, and no folder or name of it is hidden."""
    names = [part for part in name.split("/") if part not in ("", ".", "..")]
    return bool(names) and "." in names[-1] and not any(map(is_hidden, names))


def _key(member: Member) -> str:
    parent, _, name = member.name.rpartition("/")
    return f"{parent}/{name.split('.')[0]}".removeprefix("./").lstrip("/")


def _sample_rows(image_id: str, sample: Iterator[Member], path: Path, packed: bool, split: str | None) -> Iterator[Row]:
    image: ImageSource | None = None
    texts: dict[str, bytes] = {}
    for member in sample:
        part = member.name.rsplit(".", 1)[-1].lower()
        if is_image_file(member.name) and image is None:
            # For a compressed tar, read one byte over the limit, so that decoding fails.
            image = member.read(MAX_BYTES + 1) if packed else Slice(path.absolute(), member.offset, member.size)
        elif part in _CAPTION_PARTS:
            if member.size > MAX_RECORD:
                raise DataError(
                    f"'{path}': the text '{member.name}' has {member.size:,} bytes, the limit is {MAX_RECORD:,}; "
                    "remove it from the shard"
                )
            texts[part] = member.read(MAX_RECORD)
    if image is not None:
        yield Row(image_id, image, _sample_captions(texts, image_id), split)


def _sample_captions(texts: dict[str, bytes], where: str) -> tuple[str, ...]:
    for part in _CAPTION_PARTS:
        if part not in texts:
            continue
        text = texts[part].decode("utf-8-sig", "diptych_cp1252")
        if part != "json":
            return (clean(text),)
        try:
            record = json.loads(text)
            columns = Columns.find([*record, "image"], where) if isinstance(record, dict) else None
        except (ValueError, RecursionError, DataError):
            continue  # metadata without a caption
        return tuple(text for name in columns.captions for text in caption_list(record[name])) if columns else ()
    return ()


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
                captions = tuple(clean(line) for line in _lines(file, sidecar) if line.strip()) or ("",)
        yield Row(path.relative_to(folder).as_posix(), path, captions, folder_split(path, folder))


def _lines(file: Iterable[str], sidecar: Path) -> Iterator[str]:
    size = 0
    for line in file:
        if (size := size + len(line)) > MAX_RECORD:
            raise DataError(f"'{sidecar}' has more than {MAX_RECORD:,} characters, too many for captions; move it away")
        yield line
