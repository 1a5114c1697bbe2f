"""Where the pictures of a data set lie, and how a name in a caption file becomes the path of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from diptych.errors import DataError
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.walk import image_paths

# The folder names of the published data sets and the usual ones; compared without regard to case, in this order.
PICTURE_FOLDERS = (
    *("images", "flicker8k_dataset", "flickr8k_dataset", "flickr30k_images", "flickr30k-images"),
    *("image", "imgs", "pictures", "photos"),
)
_CAPTION_FOLDERS = ("annotations", "captions", "flickr8k_text", "metadata", "text")
_SEARCH_DEPTH = 3
_REMEMBERED = 1024  # names whose paths are known: the captions of a picture mostly stand together


class Pictures:
    """Resolves the names that a caption file gives to pictures.

    A caption file is often a stranger's, so the names in it never lead out of the folders searched: `../x.jpg` and
    absolute paths are refused unless what they mean lies inside. A table of one's own with absolute paths is read by
    giving `images`, a folder that holds them all. Links inside the folders are followed: a data set to train on is
    often made of them. An index checks where each picture really lies, and reads nothing else from outside `roots`.
    """

    def __init__(self, *folders: str | Path, roots: Roots = ANYWHERE) -> None:
        self.roots = roots
        self.folders = tuple(dict.fromkeys(os.path.abspath(folder) for folder in folders))  # noqa: PTH100
        self._found: dict[str, Path] = {}
        self._index: dict[str, Path | None] | None = None

    @property
    def base(self) -> Path:
        """The data set's own folder."""
        return Path(self.folders[-1])

    @classmethod
    def around(cls, beside: Path, folder: Path | None = None, roots: Roots = ANYWHERE) -> Pictures:
        """The picture folders in the folder `beside` of a caption file, and those of `folder`, the data set's own.

        Without one it is `beside`, or of a folder called `captions` or the like the folder above, if it is in `roots`.
        """
        beside = beside.absolute()
        if folder is None and roots.hold(home := home_of(beside)):
            folder = home
        bases = [beside] if folder is None else [beside, folder]
        return cls(*(found for base in bases for found in [*_named_folders(base), base]), roots=roots)

    def find(self, name: str, where: str) -> Path:
        """The path of the picture that `where` (a file and line) calls `name`; it may not exist.

        Tried in turn: the name in each folder; a picture of that name, then of that name without a suffix, anywhere
        in the folders if there is just one.

        Raises:
            DataError: the name is empty or leads out of the folders.
        """
        if (found := self._found.get(name)) is None:
            found = self._found[name] = self._find(name.strip().replace("\\", "/"), where)
            if len(self._found) > _REMEMBERED:
                del self._found[next(iter(self._found))]
        return found

    def _find(self, name: str, where: str) -> Path:
        if not name:
            raise DataError(f"{where}: no picture is named; add its file name or remove the line")
        inside = [path for folder in self.folders if (path := _within(folder, name))]
        if not inside:
            raise DataError(
                f"{where}: '{name}' lies outside the folder of pictures '{self.folders[0]}'; "
                "if that is meant, give `images`, a folder that holds all the pictures"
            )
        for path in inside:
            if os.path.isfile(path):  # noqa: PTH113 (a Path costs three times as much, a million times)
                return Path(path)
        return self._by_name(name) or Path(inside[0])

    def _by_name(self, name: str) -> Path | None:
        if self._index is None:
            self._index = {}
            for path in dict.fromkeys(path for folder in self.folders for path in walk_pictures(Path(folder))):
                for key in {path.name.lower(), path.stem.lower()}:
                    self._index[key] = None if key in self._index else path  # two of one name: neither
        return self._index.get(name.rsplit("/", 1)[-1].lower())


def home_of(folder: Path) -> Path:
    """The folder of the data set whose file of captions lies in `folder`: the one above `captions` or the like."""
    return folder.parent if folder.name.lower() in _CAPTION_FOLDERS else folder


def walk_pictures(folder: Path, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """The image files below a folder, by the rule of `diptych.images.walk`, at most `depth` folders deep."""
    return image_paths(folder, depth)


def _named_folders(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    there = {entry.name.lower(): Path(entry.path) for entry in os.scandir(base) if entry.is_dir()}
    return [there[name] for name in PICTURE_FOLDERS if name in there]


def _within(folder: str, name: str) -> str | None:
    path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 (an absolute name wins)
    return path if path.startswith(folder.rstrip(os.sep) + os.sep) else None
