"""Image paths: resolves the image names in a caption file to files in the image folders of a data set."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diptych.data.joins import canonical_id
from diptych.data.reading_notes import ReadingNotes
from diptych.errors import DataError, NextStep
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.walk import image_paths

# Image folder names of published data sets and common ones, in order of preference; case is ignored.
IMAGE_FOLDERS = (
    *("images", "flicker8k_dataset", "flickr8k_dataset", "flickr30k_images", "flickr30k-images"),
    *("image", "imgs", "pictures", "photos"),
)
_CAPTION_FOLDERS = ("annotations", "captions", "flickr8k_text", "metadata", "text")
_SEARCH_DEPTH = 3
_CACHED_PATHS = 1024  # cache size; the captions of an image are usually adjacent
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:/")


class ImagePaths:
    """Resolves the image names in a caption file to paths.

    A name is first taken literally, relative to each folder. Otherwise it may stand for one other file:

    - A name without a folder, for the only file of that name, of that stem, or of that number (`139` or `139.0` for
      `000000000139.jpg`), anywhere in the folders.
    - A name with folders (`0001/000.jpg`), for the only file whose path ends with all of it; or without its first
      folders, for a file at exactly that place in an image folder. A folder is never dropped down to the bare name.
    - An absolute path of another machine, or a URL, for a file whose place in an image folder is the end of that path.

    Case, Unicode normalisation and percent-encoding are ignored where the literal name does not exist. If two names
    lead to one file in this way, neither is used; see `finish`.

    Caption files are untrusted, so a name must not lead out of the image folders. Links inside the folders are
    followed, since training sets often consist of links; an index additionally checks the real path of each image.

    Attributes:
        roots: the folders that captions may be read from.
        folders: the image folders, in order of preference; the last is the root of the data set.
        notes: what was noticed; resolvers of one data set share it.
    """

    def __init__(self, *folders: str | Path, roots: Roots = ANYWHERE, notes: ReadingNotes | None = None) -> None:
        self.roots = roots
        self.folders = tuple(dict.fromkeys(os.path.abspath(folder) for folder in folders))  # noqa: PTH100
        self.notes = notes if notes is not None else ReadingNotes()
        self._paths: dict[str, Path] = {}
        self._index: _FileIndex | None = None
        self._prefix: tuple[str, ...] = ()  # leading folders that the last absolute path had in excess

    @property
    def base(self) -> Path:
        """The root folder of the data set."""
        return Path(self.folders[-1])

    @classmethod
    def around(
        cls, beside: Path, folder: Path | None = None, roots: Roots = ANYWHERE, notes: ReadingNotes | None = None
    ) -> ImagePaths:
        """Search the folder `beside` of a caption file, the root `folder` of the data set, and their image folders.

        `folder` defaults to `home_of(beside)` if that lies in `roots`.
        """
        beside = beside.absolute()
        if folder is None and roots.contains(home := home_of(beside)):
            folder = home
        bases = [beside] if folder is None else [beside, folder]
        return cls(*(path for base in bases for path in [*image_folders(base), base]), roots=roots, notes=notes)

    def find(self, name: str, where: str) -> Path:
        """The path of the image called `name`; `where` (a file and line) is used in error messages.

        The path returned may not exist: then no file, or no single one, fits the name.

        Raises:
            DataError: the name is empty, or leads out of the folders by `..`.
        """
        if (path := self._paths.get(name)) is None:
            path = self._paths[name] = self._find(name.strip().replace("\\", "/"), where)
            if len(self._paths) > _CACHED_PATHS:
                del self._paths[next(iter(self._paths))]
        return path

    def _find(self, name: str, where: str) -> Path:
        if not name:
            raise DataError(f"{where}: the image name is empty; add a file name or remove the line")
        address = _address(name)
        is_absolute = address is not None and not _URL.match(name)
        if address is None or is_absolute:
            inside = [path for folder in self.folders if (path := _within(folder, address or name))]
            if not inside and not is_absolute:
                raise outside_error(_outside(where, name, self.folders[0]))
            for path in inside:
                if os.path.isfile(path):  # noqa: PTH113 (a Path takes three times as long)
                    return Path(path)
        guess = self._relocated(address) if address is not None else self._similar(name)
        if guess is not None:
            self.notes.guessed.add(str(guess))
            return guess
        if is_absolute and not inside and self.notes.outside is None:
            self.notes.outside = _outside(where, name, self.folders[0])
        elif address is not None and not is_absolute:
            self.notes.add("remote_names", name, f"{where.replace(chr(39), '')}: no file beside the captions fits it")
        elif address is None and self._index is not None and self._index.fits_several(_parts(name)):
            self.notes.add("ambiguous_names", name, f"{where.replace(chr(39), '')}: several files fit it")
            return Path(ambiguous_path(self.folders[0], name))
        return Path(literal_path(self.folders[0], name))

    def _relocated(self, address: str) -> Path | None:
        """The file for an absolute path or the path of a URL: its longest ending that is a place in a folder."""
        parts = _parts(address)
        if ".." in parts:
            return None
        cached = len(self._prefix)
        starts = list(range(len(parts)))
        if cached and tuple(parts[:cached]) == self._prefix and cached < len(parts):
            starts.insert(0, cached)
        for start in starts:
            if path := self._placed(parts[start:]):
                self._prefix = tuple(parts[:start])
                self.notes.relocated += 1
                return path
        return None

    def _similar(self, name: str) -> Path | None:
        """The one file that fits a relative name which is not literally there."""
        if not (parts := _parts(name)):
            return None
        if self._index is None:
            self._index = _FileIndex(self.folders)
        if (path := self._index.find(parts)) is not None:
            return path
        if "?" in parts[-1]:
            return self._similar(name.rpartition("?")[0])
        starts = range(1, len(parts) - 1) if ".." not in parts else ()
        return next(filter(None, (self._placed(parts[start:]) for start in starts)), None)

    def _placed(self, parts: list[str]) -> Path | None:
        """The file at the relative path `parts` in exactly one folder."""
        relative = "/".join(parts)
        paths = {
            path: None
            for spelling in dict.fromkeys((relative, unquote(relative)))
            for folder in self.folders
            if (path := _within(folder, spelling)) and os.path.isfile(path)  # noqa: PTH113 (as above)
        }
        return Path(next(iter(paths))) if len(paths) == 1 else None


def literal_path(folder: str | Path, name: str) -> str:
    """The path below `folder` that a name without a file stands for; it does not lead out of the folder."""
    parts = [part for part in _parts(name) if part != ".."]
    return os.path.join(folder, *parts)  # noqa: PTH118 (a Path costs three times as much)


_AMBIGUOUS = " (ambiguous)"


def ambiguous_path(folder: str | Path, name: str) -> str:
    """A path for a name that fits several files, or only the file of another name; nothing lies there."""
    return literal_path(folder, name + _AMBIGUOUS)


def is_ambiguous_path(path: Path) -> bool:
    """Whether a path is that of an ambiguous name, which was noted when it was read."""
    return path.name.endswith(_AMBIGUOUS)


def is_remote(name: str) -> bool:
    """Whether an image name is a URL; one without a file is noted when it is read."""
    return _URL.match(name) is not None and _address(name) is not None


def is_exact(path: str, name: str) -> bool:
    """Whether an image name is literally the path, or the end of the path."""
    plain = os.path.normpath(name.replace("\\", "/"))
    return path == plain or path.endswith(f"{os.sep}{plain.lstrip(os.sep)}")


class _FileIndex:
    """The image files of some folders, by normalised name."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._by_name: dict[str, Path | None] = {}  # None: the name is ambiguous
        self._in_folder: dict[str, list[Path]] = {}  # by parent folder and name
        self._by_number: dict[int, Path | None] = {}
        for path in dict.fromkeys(path for folder in folders for path in image_paths(Path(folder))):
            name, stem = _normal(path.name), _normal(path.stem)
            for key in {name, stem}:
                self._by_name[key] = None if key in self._by_name else path
                self._in_folder.setdefault(f"{_normal(path.parent.name)}/{key}", []).append(path)
            if stem.isascii() and stem.isdecimal() and len(stem) <= _DIGITS:
                number = int(stem)
                self._by_number[number] = None if number in self._by_number else path

    def find(self, parts: list[str]) -> Path | None:
        """The only file whose path ends with `parts`; for a single part, also by stem or number."""
        keys = list(map(_normal, parts))
        if len(keys) == 1:
            number = canonical_id(keys[0])
            if keys[0] in self._by_name or not (number.isascii() and number.isdecimal() and len(number) <= _DIGITS):
                return self._by_name.get(keys[0])
            return self._by_number.get(int(number))
        ends = self._ends(keys)
        return ends[0] if len(ends) == 1 else None

    def fits_several(self, parts: list[str]) -> bool:
        """Whether `find` has several files to choose from."""
        keys = list(map(_normal, parts))
        if len(keys) > 1:
            return len(self._ends(keys)) > 1
        if not keys or self.find(parts) is not None:
            return False
        number = canonical_id(keys[0])
        is_number = number.isascii() and number.isdecimal() and len(number) <= _DIGITS
        return keys[0] in self._by_name or (is_number and int(number) in self._by_number)

    def _ends(self, keys: list[str]) -> list[Path]:
        """The files whose path ends with `keys`, which are normalised."""
        return [
            path
            for path in self._in_folder.get("/".join(keys[-2:]), ())
            if list(map(_normal, path.parts[-len(keys) : -1])) == keys[:-1]
        ]


_DIGITS = 18  # of the longest image number


def _normal(name: str) -> str:
    """A name in lower case, in one Unicode normalisation, without percent-encoding."""
    return unicodedata.normalize("NFC", unquote(name) if "%" in name else name).lower()


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _address(name: str) -> str | None:
    """The path of an absolute path or URL, without drive, host and query; None for a relative name."""
    if _URL.match(name):
        try:
            return unquote(urlsplit(name).path)
        except ValueError:  # an invalid host
            return None
    if _DRIVE.match(name):
        return name[2:] if os.sep == "/" else name
    return name if name.startswith("/") else None


def _outside(where: str, name: str, folder: str) -> str:
    return (
        f"{where}: '{name}' lies outside the image folder '{folder}', and no file in it has a path that ends like this "
        "name; move the images into it, or the captions into a folder above them"
    )


def outside_error(message: str) -> DataError:
    """The error for an image name that leads out of the image folders."""
    return DataError(message, steps=[NextStep("or name a folder that contains all images", "images")])


def home_of(folder: Path) -> Path:
    """The root of a data set with a caption file in `folder`: the parent of `captions` and the like, else `folder`."""
    return folder.parent if folder.name.lower() in _CAPTION_FOLDERS else folder


def image_files(folder: Path, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """The image files below a folder, by the rule of `diptych.images.walk`, at most `depth` folders deep."""
    return image_paths(folder, depth)


def image_folders(base: Path) -> list[Path]:
    """The folders in `base` that are called as image folders usually are, in order of preference."""
    if not base.is_dir():
        return []
    folders = {entry.name.lower(): Path(entry.path) for entry in os.scandir(base) if entry.is_dir()}
    return [folders[name] for name in IMAGE_FOLDERS if name in folders]


def _within(folder: str, name: str) -> str | None:
    path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 (an absolute name replaces the folder)
    return path if path.startswith(folder.rstrip(os.sep) + os.sep) else None
