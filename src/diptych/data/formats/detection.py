"""What a path or a name is: which format, which files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from diptych.data.formats.encoding import open_text, split_of
from diptych.data.formats.image_paths import walk_pictures
from diptych.data.formats.registry import FORMATS
from diptych.data.formats.shards import expand
from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.images.walk import is_hidden, is_image_file
from diptych.runtime.files import check_regular

_HEAD_CHARACTERS = 65536
_MOST_CAPTION_FILES = 100  # more files of one kind in a folder belong to its pictures, one each: none is looked into
_HUB_NAME = re.compile(r"[\w-]+/[\w-][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set found: its format, its files, and the folder that was given, if one was."""

    format: str
    paths: tuple[Path, ...]
    folder: Path | None = None


def detect(source: str | Path, format: str | None = None) -> Source:
    """What `source` is, without reading more than the beginnings of files.

    In a folder, the files of each format are looked for in the order of `FORMATS`, first in the folder itself, then in
    the folders in it; last come pictures with `.txt` sidecars. A file is known by its name and its beginning. A name
    like `user/name` that does not exist here, or `hf://user/name`, is a data set of the Hugging Face hub.

    Raises:
        ConfigError: there is no format of that name.
        DataError: nothing is there or nothing is recognised; the message says what was seen and what was looked for.
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
    missing = [str(each) for each in paths if not each.is_file()]
    if missing and Path(missing[0]).exists():
        check_regular(missing[0])
    if missing or not paths:
        if _HUB_NAME.fullmatch(text) and not _formats_of([Path(text.lower())], look_inside=False):
            return Source("hub", (path,))
        raise DataError(f"there is no file or folder '{missing[0] if missing else text}'; check the path")
    return Source(format or _of_file(paths[0]), tuple(each.absolute() for each in paths))


def _in_folder(folder: Path, names: list[str]) -> Source:
    levels = _listing(folder)
    for name in names:
        for level in levels:
            if files := _files_of(name, [path for path in level if path.is_file()]):
                _refuse_several(name, files, folder)
                return Source(name, tuple(files), folder)
    if "sidecars" in names and any(path.with_suffix(".txt").is_file() for path in islice(walk_pictures(folder), 1000)):
        return Source("sidecars", (folder,), folder)
    kinds = Counter(_kind(path) for level in levels for path in level)
    kinds["pictures"] = sum(1 for _ in walk_pictures(folder))
    seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8) if count) or "nothing"
    raise DataError(f"no captions were recognised in '{folder}': it holds {seen}. {_looked_for(names)}")


def _kind(path: Path) -> str:
    if not path.is_file():  # a pipe, a socket, a device, or a link to nothing
        return f"'{path.name}' that is not a regular file"
    return path.suffix.lower() or "without suffix"


def _refuse_several(name: str, files: list[Path], folder: Path) -> None:
    """One data set may be `train.csv` and `val.csv`; of `a.csv` and `b.csv` the owner must say which."""
    splits = {split_of(file, folder) for file in files} - {None}
    if len(files) > 1 and not FORMATS[name].many and len(splits) < len(files):
        listed = ", ".join(f"'{file.relative_to(folder)}'" for file in files)
        raise DataError(f"'{folder}' holds several files of format '{name}': {listed}; give the path of one")


def _of_file(path: Path) -> str:
    if names := _formats_of([path]):
        return names[0]
    head = _head(path)
    for name, each in FORMATS.items():  # renamed by its owner: known by its beginning alone
        if each.holds and path.suffix.lower() in {Path(file).suffix for file in each.files} and each.holds(head):
            return name
    begins = head[:80].split("\n")[0]
    raise DataError(f"the format of '{path}' was not recognised; it begins '{begins}'. {_looked_for(FORMATS)}")


def _formats_of(files: list[Path], look_inside: bool = True) -> list[str]:
    return [name for name in FORMATS if _files_of(name, files, look_inside)]


def _files_of(name: str, files: list[Path], look_inside: bool = True) -> list[Path]:
    """Those of `files` that are of a format, by the first of its patterns that finds any."""
    for pattern in FORMATS[name].files:
        found = [path for path in files if fnmatch(path.name.lower(), pattern)]
        if (holds := FORMATS[name].holds) and look_inside:
            found = [path for path in found if holds(_head(path))] if len(found) <= _MOST_CAPTION_FILES else []
        if found:
            return found
    return []


def _looked_for(names: Iterable[str]) -> str:
    files = {name: ", ".join(FORMATS[name].files) for name in names if name != "hub"}
    known = "; ".join(f"{name} ({patterns or 'a.jpg with a.txt'})" for name, patterns in files.items())
    return f"Looked for: {known}. Name a format, or give the path of the caption file"


def _listing(folder: Path) -> list[list[Path]]:
    """The files of a folder that are not pictures, and those of the folders in it."""
    levels: list[list[Path]] = [[], []]
    folders = [(folder, levels[0])]
    for parent, level in folders:
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if is_hidden(entry.name) or is_image_file(entry.name):
                continue
            if not entry.is_dir():
                level.append(Path(entry.path))
            elif parent == folder:
                folders.append((Path(entry.path), levels[1]))
    return levels


def _head(path: Path) -> str:
    with open_text(path) as file:
        return file.read(_HEAD_CHARACTERS)
