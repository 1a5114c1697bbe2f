"""Format detection: the format and the files of a data set, from a path or a hub name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from diptych.data.formats.delimited import number_in_line
from diptych.data.formats.encoding import open_text, split_of
from diptych.data.formats.image_paths import ImagePaths, home_of, image_files, image_folders
from diptych.data.formats.registry import FORMATS, name_in_object
from diptych.data.formats.shards import expand
from diptych.errors import ConfigError, DataError, NextStep, did_you_mean
from diptych.images.suffixes import is_image_file
from diptych.images.walk import is_hidden
from diptych.runtime.files import check_regular

_DATASET_DICT = "dataset_dict.json"  # written by `datasets.DatasetDict.save_to_disk`, beside a folder for each split
_HEAD_CHARACTERS = 65536
_MAX_CAPTION_FILES = 100  # more files of one type are taken for sidecars, one per image, and not opened
_FORMAT_STEPS = (NextStep("or name the format of the captions", "format"),)
_HUB_NAME = re.compile(r"[\w-]+/[\w-][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A detected data set: its format, its files, and its folder if the source is a folder."""

    format: str
    paths: tuple[Path, ...]
    folder: Path | None = None

    @property
    def image_folder(self) -> Path | None:
        """The folder whose image files the captions should name: that of the data set, or `images/` beside a file."""
        if self.folder is not None or self.format == "hub" or FORMATS[self.format].has_images:
            return self.folder
        return next(iter(image_folders(home_of(self.paths[0].parent))), None)


def detect(source: str | Path, format: str | None = None) -> Source:
    """Detect the format and files of `source`, reading at most the beginning of each file.

    In a folder, each format is tried in the order of `FORMATS`, first in the folder itself, then in its subfolders;
    images with `.txt` sidecars come last. A file is identified by its name and its beginning. A name like `user/name`
    that is not a local path, or `hf://user/name`, is a data set on the Hugging Face hub.

    Raises:
        ConfigError: `format` is unknown.
        DataError: the path does not exist, or no format matches; the message lists the files seen and the names tried.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown format '{format}': {did_you_mean(format, FORMATS)}")
    text = str(source)
    if text.startswith("hf://"):
        return Source("hub", (Path(text.removeprefix("hf://").removeprefix("datasets/")),))
    path = Path(source).expanduser()
    if format == "hub":
        return Source("hub", (path,), path.absolute() if path.is_dir() else None)
    if path.is_dir():
        return _in_folder(path.absolute(), [format] if format else list(FORMATS))
    paths = [path] if path.exists() else expand(str(path))
    missing = [str(file) for file in paths if not file.is_file()]
    if missing and Path(missing[0]).exists():
        check_regular(missing[0])
    if missing or not paths:
        if _HUB_NAME.fullmatch(text) and not _formats_of([Path(text.lower())], look_inside=False):
            return Source("hub", (path,))
        raise DataError(f"'{missing[0] if missing else text}' does not exist; check the path")
    return Source(format or _of_file(paths[0]), tuple(file.absolute() for file in paths))


def _in_folder(folder: Path, names: list[str]) -> Source:
    levels = _listing(folder)
    for name in names:
        # An image folder may have a metadata file at its root and others in its folders; all are read.
        for level in [levels[0] + levels[1]] if name == "imagefolder" else levels:
            if files := _files_of(name, [path for path in level if path.is_file()]):
                _check_single(name, files, folder)
                return Source(name, tuple(files), folder)
    if "sidecars" in names and any(path.with_suffix(".txt").is_file() for path in islice(image_files(folder), 1000)):
        return Source("sidecars", (folder,), folder)
    if "table" in names:
        tables = [path for path in levels[0] if _names_images_by_stem(path, folder)]
        if tables:
            _check_single("table", tables, folder)
            return Source("table", tuple(tables), folder)
    kinds = Counter(_kind(path) for level in levels for path in level)
    kinds["images"] = sum(1 for _ in image_files(folder))
    seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8) if count)
    contents = f"it contains {seen}" if seen else "the folder is empty"
    raise DataError(f"no captions found in '{folder}' ({contents}). {_supported(names)}", steps=_FORMAT_STEPS)


def _kind(path: Path) -> str:
    if not path.is_file():  # a pipe, socket, device or broken link
        return f"'{path.name}' that is not a regular file"
    return path.suffix.lower() or "without a suffix"


def _check_single(name: str, files: list[Path], folder: Path) -> None:
    """Refuse several files of one format, unless they are splits of one data set such as `train.csv` and `val.csv`."""
    splits = {split_of(file, folder) for file in files} - {None}
    if len(files) > 1 and not FORMATS[name].many and len(splits) < len(files):
        listed = ", ".join(f"'{file.relative_to(folder)}'" for file in files)
        raise DataError(f"'{folder}' contains several files of format '{name}': {listed}; pass the path of one")


def _of_file(path: Path) -> str:
    if names := _formats_of([path]):
        return names[0]
    head = _head(path)
    for name, entry in FORMATS.items():  # a file with another name: identified by its beginning alone
        if entry.holds and path.suffix.lower() in {Path(file).suffix for file in entry.files} and entry.holds(head):
            return name
    if _names_images_by_stem(path, home_of(path.absolute().parent)):
        return "table"
    begins = head[:80].split("\n")[0]
    raise DataError(
        f"the format of '{path}' was not recognized; it begins with '{begins}'. {_supported(FORMATS)}",
        steps=_FORMAT_STEPS,
    )


def _names_images_by_stem(path: Path, folder: Path) -> bool:
    """Whether a JSON object by name, or a table without a header, begins with the stem or number of an image file.

    Tried last: without the suffix of an image file, a name could be anything.
    """
    if path.suffix.lower() not in _TABLE_SUFFIXES or not path.is_file():
        return False
    head = _head(path)
    name = name_in_object(head) if path.suffix.lower() == ".json" else number_in_line(head.partition("\n")[0])
    try:
        return bool(name) and ImagePaths.around(path.parent, folder).find(name, str(path)).is_file()
    except DataError:  # a name that leads out of the folder
        return False


_TABLE_SUFFIXES = (".json", ".csv", ".tsv", ".txt")


def _formats_of(files: list[Path], look_inside: bool = True) -> list[str]:
    return [name for name in FORMATS if _files_of(name, files, look_inside)]


def _files_of(name: str, files: list[Path], look_inside: bool = True) -> list[Path]:
    """The files of one format: those that match its first pattern with any match."""
    for pattern in FORMATS[name].files:
        matches = [path for path in files if fnmatch(path.name.lower(), pattern)]
        if (holds := FORMATS[name].holds) and look_inside:
            matches = [path for path in matches if holds(_head(path))] if len(matches) <= _MAX_CAPTION_FILES else []
        if matches:
            return matches
    return []


def _supported(names: Iterable[str]) -> str:
    files = {name: ", ".join(FORMATS[name].files) for name in names if name != "hub"}
    known = "; ".join(f"{name} ({patterns or 'a.jpg and a.txt'})" for name, patterns in files.items())
    return f"Save the captions in one of these formats: {known}"


def _listing(folder: Path) -> list[list[Path]]:
    """The non-image files of a folder, and those of its subfolders.

    Of a subfolder that `datasets` saved with several splits, also those of the splits.
    """
    levels: list[list[Path]] = [[], []]
    folders = [(folder, levels[0])]
    for parent, level in folders:
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if is_hidden(entry.name) or is_image_file(entry.name):
                continue
            if not entry.is_dir():
                level.append(Path(entry.path))
            elif parent == folder or (parent / _DATASET_DICT).is_file():
                folders.append((Path(entry.path), levels[1]))
    return levels


def _head(path: Path) -> str:
    with open_text(path) as file:
        return file.read(_HEAD_CHARACTERS)
