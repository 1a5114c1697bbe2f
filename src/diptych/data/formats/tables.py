"""Tables with named columns: CSV, TSV, JSON lines, Parquet, image folders, and data sets on the Hugging Face hub."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from diptych.data.formats.arrow import arrow_rows
from diptych.data.formats.delimited import (
    column_names,
    csv_fields,
    delimiter_of,
    headerless_delimiter,
    number_in_line,
    two_fields,
)
from diptych.data.formats.encoding import (
    SPLIT_NAMES,
    caption_text,
    clean,
    folder_split,
    open_text,
    split_in_name,
    split_of,
)
from diptych.data.formats.image_paths import ImagePaths
from diptych.data.formats.json_values import entries, parse
from diptych.data.formats.parquet import parquet_rows
from diptych.data.joins import canonical_id
from diptych.data.pairs import Row
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError, require
from diptych.images.decode import MAX_BYTES, ImageSource, content_hash
from diptych.images.suffixes import is_image_file

# Compared in lower case without spaces, `_` and `-`, in order of preference.
IMAGE_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "filename", "file", "imagename", "imagepath", "imgpath"),
    *("filepath", "imagefile", "path", "imageid", "imgid", "photoid", "id"),
)
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "prompt", "sentence", "sentences", "title", "comment", "comments"),
    *("description", "raw", "txt", "answer"),
)
SPLIT_COLUMNS = ("split", "subset", "partition")
NUMBER_COLUMNS = ("cocoid", "imageid", "imgid", "photoid")
ID_COLUMNS = ("imageid", "imgid", "photoid", "key", "filename", "imagename")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the image, caption, split and id columns of a table."""

    image: str
    captions: tuple[str, ...]
    split: str | None = None
    image_id: str | None = None
    number: str | None = None  # the column of COCO's numbers, beside a column of file names
    unread: tuple[str, ...] = ()  # further columns that seem to hold captions

    @classmethod
    def find(cls, names: Iterable[str], where: str) -> Columns:
        """Assign the columns called `names`; `where` is used in error messages.

        The captions are those of one family: columns of the same name but for a number at its end, such as `caption`,
        `caption_2` and `caption.3`. Of several families, the first in the order of `CAPTION_COLUMNS` is read.

        Raises:
            DataError: there is no image or no caption column; the message lists the columns.
        """
        listed_names = list(dict.fromkeys(names))
        columns = {plain_name(name): name for name in reversed(listed_names)}

        def first(wanted: tuple[str, ...]) -> str | None:
            return next((columns[name] for name in wanted if name in columns), None)

        image = first(IMAGE_COLUMNS)
        families = {name: _caption_family(name) for name in listed_names if name != image}
        family = next((word for word in CAPTION_COLUMNS if word in families.values()), None)
        captions = tuple(name for name, word in families.items() if word == family) if family else ()
        if image is None or not captions:
            kind, accepted = ("image", IMAGE_COLUMNS) if image is None else ("caption", CAPTION_COLUMNS)
            listed = ", ".join(name[:_LISTED_CHARACTERS] for name in listed_names[:_LISTED]) or "none"
            raise DataError(
                f"{where} has no {kind} column (its columns: {listed}"
                f"{f' and {len(listed_names) - _LISTED:,} more' if len(listed_names) > _LISTED else ''}); "
                f"rename the {kind} column to one of: {', '.join(accepted)}"
            )
        number = first(NUMBER_COLUMNS)
        unread = tuple(name for name, word in families.items() if word and name not in captions)
        split, image_id = first(SPLIT_COLUMNS), first(ID_COLUMNS)
        return cls(image, captions, split, image_id, number if number != image else None, unread)

    def note_unread(self, notes: ReadingNotes, where: str, known: Collection[str] = ()) -> None:
        """Note the columns that seem to hold captions and are not read, except those `known`."""
        for name in self.unread:
            if name not in known:
                notes.add("unread_columns", where.replace("'", ""), f"'{name}', beside '{self.captions[0]}'")


_LISTED, _LISTED_CHARACTERS = 50, 80  # columns listed by an error message, and characters of each name


def plain_name(column: str) -> str:
    """The name of a column as it is compared: in lower case, without spaces, `_` and `-`."""
    return re.sub(r"[\s_-]", "", column).lower()


def _caption_family(column: str) -> str | None:
    """The name of a caption column without its number: "caption" for `caption_0`, `Caption2` and `caption.1`.

    A name that ends in "caption", such as `alt_caption`, is a family of its own; other columns have none.
    """
    plain = re.sub(r"\.?\d+$", "", plain_name(column))
    return plain if plain in CAPTION_COLUMNS or plain.endswith(("caption", "captions")) else None


def read_table(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read CSV, TSV, JSON lines or a JSON list; the split comes from a column or from the file name."""
    yield from rows(records(path, notes=images.notes), images, split_of(path, images.base))


def read_imagefolder(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read a Hugging Face image folder: `metadata.csv`, `.jsonl` or `.parquet`, with names relative to its folder."""
    folder = path.absolute().parent
    # File names may repeat between train/ and val/, so the image id includes the folder name.
    prefix = f"{folder.name}/" if folder != images.base else ""
    split = folder_split(path, images.base)
    beside = ImagePaths(folder, *images.folders, roots=images.roots, notes=images.notes)
    # Metadata files of other splits have their split from their folder, so the names at the root must give one too.
    has_parts = folder == images.base and any(folder.glob("*/metadata.*"))
    for row in rows(records(path, notes=images.notes), beside, split, prefix):
        yield replace(row, split=row.split or split_in_name(row.image_id)) if has_parts else row


def read_parquet(path: Path, images: ImagePaths) -> Iterator[Row]:
    """Read Parquet, or Arrow streams, with images as bytes, as structs of bytes and path, or as paths, in batches."""
    yield from rows(records(path, notes=images.notes), images, split_of(path, images.base))


def read_hub(name: Path, image_paths: ImagePaths) -> Iterator[Row]:
    """Stream a data set from the Hugging Face hub, or from a local copy; `name@revision` pins a version.

    Raises:
        MissingExtra: `datasets` is not installed (the extra `train`).
        DataError: the data set cannot be loaded.
    """
    datasets = require("datasets", extra="train")
    repository, _, revision = name.as_posix().partition("@")
    try:
        streams = datasets.load_dataset(repository, streaming=True, revision=revision or None)
        for split, stream in streams.items():
            images = [key for key, kind in (stream.features or {}).items() if isinstance(kind, datasets.Image)]
            for column in images:
                stream = stream.cast_column(column, datasets.Image(decode=False))
            numbered = ((f"'{name}', {split}, row {index}", _fetched(row, images)) for index, row in enumerate(stream))
            yield from rows(numbered, image_paths, split if split in SPLIT_NAMES else None)
    except (OSError, ValueError) as error:  # ConnectionError and DatasetNotFoundError are OSErrors
        raise DataError(
            f"'{name}' is not a local file or folder, and cannot be loaded from the Hugging Face hub ({error}); "
            "check the name and the network"
        ) from error


def _fetched(record: dict[str, object], images: list[str]) -> dict[str, object]:
    """Replace references to image files on the hub by their bytes.

    Only for hub data sets: an untrusted table must not cause requests to arbitrary URLs.
    """
    for column in images:
        value = record[column]
        path = value.get("path") if isinstance(value, Mapping) and not value.get("bytes") else None
        if isinstance(path, str) and "hf://" in path:
            with require("fsspec", extra="train").open(path, "rb") as file:
                record[column] = {"bytes": file.read(MAX_BYTES + 1)}  # one over the limit, so that decoding fails
    return record


def records(
    path: Path, also: Collection[str] = (), notes: ReadingNotes | None = None
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The rows of a table file as (position for error messages, column -> value); blank lines are skipped.

    Of Parquet and Arrow files, only the columns of images, captions, splits and ids are read, and those in `also`
    (compared by `plain_name`); further caption columns are noted in `notes`.
    """
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        read = parquet_rows if suffix == ".parquet" else arrow_rows
        return ((f"'{path}', row {number}", record) for number, record in read(path, _selection(path, also, notes)))
    return {".jsonl": _json_lines, ".json": _json_list}.get(suffix, _csv_rows)(path)


def rows(
    table: Iterable[tuple[str, Mapping[str, object]]], images: ImagePaths, split: str | None, prefix: str = ""
) -> Iterator[Row]:
    """Convert records with named columns to rows; `split` applies where there is no split column."""
    first: Columns | None = None
    names: tuple[str, ...] = ()
    unread: set[str] = set()
    for where, record in table:
        if first is None:
            first = columns = Columns.find(record, where)
        elif names != tuple(record):  # JSON objects need not have the same names
            columns = _changed_columns(first, record, where, images.notes)
        names = tuple(record)
        if not unread.issuperset(columns.unread):
            columns.note_unread(images.notes, where, known=unread)
            unread.update(columns.unread)
        part = clean(record.get(columns.split)) if columns.split else ""
        captions = tuple(caption for name in columns.captions for caption in caption_list(record.get(name)))
        image_id, image = _image(record, columns, images, where)
        number = record.get(columns.number) if columns.number else None
        if isinstance(image, bytes) and split:
            image_id = f"{split}/{image_id}"  # ids may repeat between the splits of a hub data set
        yield Row(prefix + image_id, image, captions, part or split, canonical_id(clean(number)) or None)


def _changed_columns(first: Columns, record: Mapping[str, object], where: str, notes: ReadingNotes) -> Columns:
    """The columns of a record with other names than the first: the same image and caption columns if it has them."""
    try:
        found = Columns.find(record, where)
    except DataError:
        return first  # the image or the caption is missing, and reported as such
    families = {name: _caption_family(name) for name in record if name != first.image}
    captions = tuple(name for name, family in families.items() if family == _caption_family(first.captions[0]))
    if first.image in record and captions:
        unread = tuple(name for name, family in families.items() if family and name not in captions)
        return replace(found, image=first.image, captions=captions, unread=unread)
    if found.captions != first.captions:
        notes.add("changed_columns", where.replace("'", ""), f"captions from '{found.captions[0]}'")
    return found


def _image(record: Mapping[str, object], columns: Columns, images: ImagePaths, where: str) -> tuple[str, ImageSource]:
    """The id and image of a record. The id is the file name, or for bytes the id column or else the content hash."""
    value = record.get(columns.image)
    if isinstance(value, Mapping):  # the struct of `datasets.Image`
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        image_id = record.get(columns.image_id) if columns.image_id and columns.image_id != columns.image else None
        return (content_hash(value) if image_id is None else clean(image_id)), value
    if (
        value is None or value != value or not str(value).strip()
    ):  # an empty cell: reported as a missing image, without failing the whole table
        missing = where.replace("'", "")
        return missing, Path(missing)
    name = str(value).strip().replace("\\", "/")
    return name, images.find(name, where)


def caption_list(value: object) -> list[str]:
    """The captions in a cell: a string, a list, the text of a list, or objects with `raw`, `caption` or `text`."""
    captions, pending = [], [value]
    while pending:  # no recursion, since lists may be nested as deep as JSON allows
        value = pending.pop()
        if isinstance(value, str) and (texts := list_in_text(value)) is not None:
            value = texts
        if isinstance(value, (list, tuple)):
            pending += reversed(value)
        elif isinstance(value, Mapping):
            captions.append(caption_text(next((value[key] for key in ("raw", "caption", "text") if key in value), "")))
        else:
            captions.append(caption_text(value))
    return captions


_LITERAL = r"""(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
_ITEM = rf"(?:{_LITERAL}|nan|NaN|None|null|<NA>)"
_BETWEEN = r"(?:\s*+,\s*+|\s++)"  # NumPy writes no commas
_ITEMS = rf"\s*+(?:{_ITEM}(?:{_BETWEEN}{_ITEM})*+\s*+,?\s*+)?"
_LIST = re.compile(
    rf"\[{_ITEMS}\]"  # Python, JSON, NumPy
    rf"|\(\s*+(?:{_ITEM}\s*+,{_ITEMS})?\)"  # a tuple; `("a")` is none
    rf"|\{{\s*+{_LITERAL}(?:\s*+,\s*+{_LITERAL})*+\s*+\}}"  # a set, or an array of PostgreSQL
    rf"|array\(\s*+\[{_ITEMS}\]\s*+(?:,\s*+dtype=[\w.'<>|]++\s*+)?\)",  # what pandas writes for a column of arrays
    re.DOTALL,
)


def list_in_text(text: str) -> list[str] | None:
    """The strings of a list that was written as text, as Python, JSON, NumPy or PostgreSQL do; None if it is no list.

    Missing values (`nan`, `None`, `null`) are "".
    """
    text = text.strip()
    if not text.startswith(("[", "(", "{", "array(")) or not _LIST.fullmatch(text):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        literals = re.findall(_LITERAL + r"|dtype=\S*|" + _ITEM, text, re.DOTALL)
        try:
            values = [
                ast.literal_eval(f"({item})") if item[0] in "\"'" else None for item in literals if item[:6] != "dtype="
            ]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return [value if isinstance(value, str) else "" for value in values]


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with open_text(path) as file:
        header = file.readline()
    without_header = headerless_delimiter(header) or (delimiter_of(header) if number_in_line(header) else None)
    if without_header:
        yield from _headerless_rows(path, without_header)
        return
    delimiter = delimiter_of(header)
    names = column_names(header, f"'{path}'")
    columns = Columns.find(names, f"'{path}'")
    if duplicate := next((name for name in columns.captions if names.count(name) > 1), None):
        raise DataError(f"'{path}' has several columns '{duplicate}'; rename them {duplicate}_1, {duplicate}_2, ...")
    if len(names) == 2 and names == [columns.image, *columns.captions]:
        for number, name, caption in two_fields(path, delimiter):
            if number > 1:
                yield f"'{path}', line {number}", dict(zip(names, (name, caption), strict=True))
        return
    for number, fields in csv_fields(path, delimiter):
        if number > 1 and any(field.strip() for field in fields):
            if len(fields) > len(names):  # unquoted delimiters in the last column
                fields[len(names) - 1 :] = [delimiter.join(fields[len(names) - 1 :])]
            fields += [""] * (len(names) - len(fields))
            yield f"'{path}', line {number}", dict(zip(names, fields, strict=True))


def _headerless_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, object]]]:
    """The rows of a table without a header: an image name, and after the first delimiter its caption.

    Raises:
        DataError: the lines have more than two fields, so that it is unclear which are captions.
    """
    widths = {len(fields) for _, fields in islice(csv_fields(path, delimiter), _SAMPLED_LINES) if fields}
    if len(widths) == 1 and (width := widths.pop()) > 2:
        raise DataError(
            f"'{path}' has no header line and {width} columns; add a first line that names them, such as "
            f"'{delimiter.join(['image', 'caption', 'split'])}'"
        )
    for number, name, caption in two_fields(path, delimiter):
        yield f"'{path}', line {number}", {"image": name, "caption": caption}


_SAMPLED_LINES = 20


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"'{path}', line {number}"
                yield where, _object(parse(line, where), where)


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The objects of a JSON list, or of an object from image name to captions or to an object with captions."""
    for index, entry in entries(path):
        where = f"'{path}', entry {index}" if isinstance(index, int) else f"'{path}', entry '{index}'"
        if isinstance(index, int):
            yield where, _object(entry, where)
        elif entry is None:
            yield where, {"image": index, "caption": []}
        elif isinstance(entry, Mapping) and not (is_image_file(index) or any(map(_caption_family, entry))):
            raise DataError(
                f"{where} is an object with the fields {', '.join(sorted(entry)[:_LISTED]) or 'none'}; write the file "
                'as a list of objects, [{"image": "a.jpg", "caption": "..."}, ...], or as {"a.jpg": "...", ...}'
            )
        elif isinstance(entry, Mapping):
            captions = Columns.find(["image", *entry], where).captions
            yield where, {"image": index, "caption": [entry[name] for name in captions]}
        elif isinstance(entry, (str, list)):
            yield where, {"image": index, "caption": entry}
        else:
            raise DataError(f"{where} is neither a caption nor a list of captions; is this a caption file?")


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is not an object with named columns; fix or remove it")
    return value


def _selection(path: Path, also: Collection[str], notes: ReadingNotes | None) -> Callable[[list[str]], set[str]]:
    """The columns to read of the Parquet or Arrow file at `path`, from all of their names."""

    def select(names: list[str]) -> set[str]:
        columns = Columns.find(names, f"'{path}'")
        if notes is not None:
            columns.note_unread(notes, str(path))
        chosen = (columns.image, *columns.captions, columns.split, columns.image_id, columns.number)
        return {name for name in chosen if name} | {name for name in names if plain_name(name) in also}

    return select
