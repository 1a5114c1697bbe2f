"""Samples made of files that share a stem: WebDataset shards (tar) and folders of pictures with .txt sidecars."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from diptych.errors import DataError
from diptych.formats.pictures import Pictures, is_picture, walk_pictures
from diptych.formats.tables import Columns, caption_list
from diptych.formats.text import clean, folder_split, open_text, split_of
from diptych.images import MAX_BYTES, Picture, Slice
from diptych.pairs import Row

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CAPTION_PARTS = ("txt", "caption", "json")  # in order of preference


def read_shard(path: Path, pictures: Pictures) -> Iterator[Row]:
    """One WebDataset shard: neighbouring members that share a key (the name up to its first dot) are one sample.

    The pictures of an uncompressed tar stay where they lie; those of a compressed one come as bytes. The id of a
    picture is `shard/key`, since keys are often numbered anew in each shard.
    """
    packed = path.name.lower().endswith("gz")
    shard = path.name.split(".tar")[0].removesuffix(".tgz")
    split = split_of(path, pictures.base)
    try:
        with tarfile.open(path, "r|gz" if packed else "r:") as tar:
            members = (member for member in tar if member.isfile() and "." in Path(member.name).name)
            for key, sample in groupby(members, _key):
                yield from _sample_rows(f"{shard}/{key}", sample, tar, path if not packed else None, split)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:  # the last two: hostile headers
        raise DataError(f"'{path}' is not a whole tar file ({error}); fetch it again") from error


def _key(member: tarfile.TarInfo) -> str:
    parent, _, name = member.name.rpartition("/")
    return f"{parent}/{name.split('.')[0]}".removeprefix("./").lstrip("/")


def _sample_rows(
    image_id: str, sample: Iterator[tarfile.TarInfo], tar: tarfile.TarFile, plain: Path | None, split: str | None
) -> Iterator[Row]:
    image: Picture | None = None
    texts: dict[str, bytes] = {}
    for member in sample:
        part = member.name.rsplit(".", 1)[-1].lower()
        if is_picture(member.name) and image is None:
            image = Slice(plain.absolute(), member.offset_data, member.size) if plain else _read(tar, member)
        elif part in _CAPTION_PARTS:
            texts[part] = _read(tar, member)
    if image is not None:
        yield Row(image_id, image, _sample_captions(texts, image_id), split)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read(MAX_BYTES + 1) if file else b""  # one byte over the limit: decoding it says so


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
        return tuple(each for name in columns.captions for each in caption_list(record[name])) if columns else ()
    return ()


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names: `{000..003}` and `{a,b}` each make one name a value, `*` and `?` match files."""
    if found := re.search(r"\{([^{}]*)\}", pattern):
        inside = found[1]
        if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
            width = len(bounds[1]) if bounds[1].startswith("0") else 0
            values = [f"{value:0{width}d}" for value in range(int(bounds[1]), int(bounds[2]) + 1)]
        else:
            values = inside.split(",")
        return [path for value in values for path in expand(pattern[: found.start()] + value + pattern[found.end() :])]
    if re.search(r"[*?\[]", pattern):
        return [Path(path) for path in sorted(glob.glob(pattern))]  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return [Path(pattern)]


def read_sidecars(folder: Path, pictures: Pictures) -> Iterator[Row]:
    """A folder of pictures, each with its caption in a `.txt` of the same stem; one line is one caption."""
    folder = folder.absolute()
    for path in walk_pictures(folder):
        sidecar = path.with_suffix(".txt")
        captions: tuple[str, ...] = ()
        if sidecar.is_file() and pictures.roots.hold(sidecar):
            with open_text(sidecar) as file:
                captions = tuple(clean(line) for line in file if line.strip()) or ("",)
        yield Row(path.relative_to(folder).as_posix(), path, captions, folder_split(path, folder))
