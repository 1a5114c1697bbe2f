"""Tables with named columns: CSV, TSV, JSON lines, Parquet, image folders and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diptych.data.formats.delimited import column_names, csv_fields, delimiter_of, two_fields
from diptych.data.formats.encoding import SPLIT_NAMES, clean, folder_split, open_text, split_of
from diptych.data.formats.image_paths import Pictures
from diptych.data.formats.json_values import entries, parse
from diptych.data.formats.parquet import parquet_rows
from diptych.data.pairs import Row
from diptych.errors import DataError, require
from diptych.images.decode import MAX_BYTES, Picture, content_hash

# Compared in lower case and without spaces, `_` and `-`; the first that a table has is taken.
IMAGE_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "filename", "file", "imagename", "imagepath", "imgpath"),
    *("filepath", "imagefile", "path", "imageid", "imgid", "photoid", "id"),
)
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "prompt", "sentence", "sentences", "title", "comment", "comments"),
    *("description", "raw", "txt", "answer"),
)
SPLIT_COLUMNS = ("split", "subset", "partition")
ID_COLUMNS = ("imageid", "imgid", "photoid", "key", "filename", "imagename")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table hold what."""

    image: str
    captions: tuple[str, ...]
    split: str | None = None
    image_id: str | None = None

    @classmethod
    def find(cls, names: Iterable[str], where: str) -> Columns:
        """Raises DataError where no column holds pictures or none holds captions; the message lists those there are."""
        there = {re.sub(r"[\s_-]", "", name).lower(): name for name in names}

        def first(wanted: tuple[str, ...]) -> str | None:
            return next((there[name] for name in wanted if name in there), None)

        image, caption = first(IMAGE_COLUMNS), first(CAPTION_COLUMNS)
        captions = (caption,) if caption else tuple(name for key, name in there.items() if _numbered(key))
        if image is None or not captions:
            missing = ("picture", IMAGE_COLUMNS) if image is None else ("caption", CAPTION_COLUMNS)
            listed = ", ".join(name[:_NAMED_CHARACTERS] for name in islice(there.values(), _NAMED)) or "none"
            raise DataError(
                f"{where} has no column for the {missing[0]}: it has {listed}"
                f"{f' and {len(there) - _NAMED:,} more' if len(there) > _NAMED else ''}; "
                f"rename one to one of: {', '.join(missing[1])}"
            )
        return cls(image, captions, first(SPLIT_COLUMNS), first(ID_COLUMNS))


_NAMED, _NAMED_CHARACTERS = 50, 80  # columns that an error lists, and how much of each name


def _numbered(column: str) -> bool:
    """Some data sets spread the captions of a picture over `caption_0` to `caption_4`."""
    return re.sub(r"\d+$", "", column) in CAPTION_COLUMNS


def read_table(path: Path, pictures: Pictures) -> Iterator[Row]:
    """CSV, TSV, JSON lines or a JSON list with named columns; the split is in a column or the file's name."""
    yield from rows(records(path), pictures, split_of(path, pictures.base))


def read_imagefolder(path: Path, pictures: Pictures) -> Iterator[Row]:
    """Hugging Face's image folder: `metadata.csv`, `.jsonl` or `.parquet`, its names relative to its own folder."""
    folder = path.absolute().parent
    # Names repeat between train/ and val/, so the folder's name is part of the picture's.
    prefix = f"{folder.name}/" if folder != pictures.base else ""
    split = folder_split(path, pictures.base)
    yield from rows(records(path), Pictures(folder, *pictures.folders, roots=pictures.roots), split, prefix)


def read_parquet(path: Path, pictures: Pictures) -> Iterator[Row]:
    """Parquet with pictures as bytes, as struct of bytes and path, or as paths; read batch by batch."""
    yield from rows(records(path), pictures, split_of(path, pictures.base))


def read_hub(name: Path, pictures: Pictures) -> Iterator[Row]:
    """A data set of the Hugging Face hub, streamed; `name@revision` pins a version. A local folder of one works too."""
    datasets = require("datasets", extra="train")
    repository, _, revision = name.as_posix().partition("@")
    try:
        streams = datasets.load_dataset(repository, streaming=True, revision=revision or None)
        for split, stream in streams.items():
            images = [key for key, kind in (stream.features or {}).items() if isinstance(kind, datasets.Image)]
            for column in images:
                stream = stream.cast_column(column, datasets.Image(decode=False))
            numbered = ((f"'{name}', {split}, row {at}", _fetched(row, images)) for at, row in enumerate(stream))
            yield from rows(numbered, pictures, split if split in SPLIT_NAMES else None)
    except (OSError, ValueError) as error:  # ConnectionError and DatasetNotFoundError are OSErrors
        raise DataError(
            f"'{name}' is no file or folder here, and the Hugging Face hub does not give it ({error}); "
            "check the name and the network"
        ) from error


def _fetched(record: dict[str, Any], images: list[str]) -> dict[str, Any]:
    """The record with the bytes of pictures that are files of their own on the hub.

    Here and not for every table: a stranger's CSV must not make this machine open addresses.
    """
    for column in images:
        value = record[column]
        if value and not value.get("bytes") and "hf://" in (value.get("path") or ""):
            with require("fsspec", extra="train").open(value["path"], "rb") as file:
                record[column] = {"bytes": file.read(MAX_BYTES + 1)}  # one over the limit: decoding it says so
    return record


def records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table as (where, column -> value), whatever its file type; blank lines are left out."""
    read = {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet_rows}.get(path.suffix.lower(), _csv_rows)
    return read(path)


def rows(
    table: Iterable[tuple[str, Mapping[str, Any]]], pictures: Pictures, split: str | None, prefix: str = ""
) -> Iterator[Row]:
    """Rows of named columns as pictures with captions; `split` holds where no column says one."""
    columns: Columns | None = None
    for where, record in table:
        columns = columns or Columns.find(record, where)
        part = clean(record.get(columns.split)) if columns.split else ""
        captions = tuple(caption for name in columns.captions for caption in caption_list(record.get(name)))
        image_id, image = _picture(record, columns, pictures, where)
        if isinstance(image, bytes) and split:
            image_id = f"{split}/{image_id}"  # numbers and names start anew in each split of a hub data set
        yield Row(prefix + image_id, image, captions, part or split)


def _picture(record: Mapping[str, Any], columns: Columns, pictures: Pictures, where: str) -> tuple[str, Picture]:
    """Id and picture: a path's id is its name; that of bytes is in an id column, or else the hash of the bytes."""
    value = record.get(columns.image)
    if isinstance(value, Mapping):  # the struct of Hugging Face's Image
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        named = record.get(columns.image_id) if columns.image_id and columns.image_id != columns.image else None
        return (content_hash(value) if named is None else clean(named)), value
    if value is None:  # a gap in somebody's table: its picture is missing, and the other rows are not
        missing = where.replace("'", "")
        return missing, Path(missing)
    name = str(value).strip().replace("\\", "/")
    return name, pictures.find(name, where)


def caption_list(value: Any) -> list[str]:
    """One caption or a list of them; also a list written as JSON inside a CSV, and sentences as objects."""
    captions, left = [], [value]
    while left:  # no recursion: lists may be nested as deep as JSON allows
        value = left.pop()
        if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):
            with suppress(ValueError, RecursionError):  # then it is a caption in brackets
                value = json.loads(value)
        if isinstance(value, (list, tuple)):
            left += reversed(value)
        elif isinstance(value, Mapping):
            captions.append(clean(next((value[key] for key in ("raw", "caption", "text") if key in value), "")))
        else:
            captions.append(clean(value))
    return captions


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_text(path) as file:
        header = file.readline()
    delimiter = delimiter_of(header)
    names = column_names(header, f"'{path}'")
    columns = Columns.find(names, f"'{path}'")
    if twice := next((name for name in columns.captions if names.count(name) > 1), None):
        raise DataError(f"'{path}' has several columns '{twice}'; call them {twice}_1, {twice}_2 and so on")
    if names == [columns.image, *columns.captions]:
        for number, name, caption in two_fields(path, delimiter):
            if number > 1:
                yield f"'{path}', line {number}", dict(zip(names, (name, caption), strict=True))
        return
    for number, fields in csv_fields(path, delimiter):
        if number > 1 and any(field.strip() for field in fields):
            if len(fields) > len(names):  # a last column with unquoted delimiters in it
                fields[len(names) - 1 :] = [delimiter.join(fields[len(names) - 1 :])]
            fields += [""] * (len(names) - len(fields))
            yield f"'{path}', line {number}", dict(zip(names, fields, strict=True))


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"'{path}', line {number}"
                yield where, _object(parse(line, where), where)


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for at, entry in entries(path):
        if not isinstance(at, int):
            raise DataError(f"'{path}' is not a list of objects; is it a file of captions?")
        yield (where := f"'{path}', entry {at}"), _object(entry, where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is not an object with named columns; mend or remove it")
    return value


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def select(names: list[str]) -> set[str]:
        found = Columns.find(names, f"'{path}'")
        return {name for name in (found.image, *found.captions, found.split, found.image_id) if name}

    return ((f"'{path}', row {number}", record) for number, record in parquet_rows(path, select))
