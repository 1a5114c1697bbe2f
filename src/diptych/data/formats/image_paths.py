"""Image paths: resolves the image names in a caption file to files in the image folders of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


class ImagePaths:
    """Resolves the image names in a caption file to paths.

    Caption files are untrusted, so a name must not lead out of the image folders: `../x.jpg` and absolute paths are
    refused unless they point inside. Links inside the folders are followed, since training sets often consist of links;
    an index additionally checks the real path of each image. `roots` are the folders that captions may be read from.
    """

    def __init__(self, *folders: str | Path, roots: Roots = ANYWHERE) -> None:
        self.roots = roots
        self.folders = tuple(dict.fromkeys(os.path.abspath(folder) for folder in folders))  # noqa: PTH100
        self._paths: dict[str, Path] = {}
        self._index: dict[str, Path | None] | None = None

    @property
    def base(self) -> Path:
        """The root folder of the data set."""
        return Path(self.folders[-1])

    @classmethod
    def around(cls, beside: Path, folder: Path | None = None, roots: Roots = ANYWHERE) -> ImagePaths:
        """Search the folder `beside` of a caption file, the root `folder` of the data set, and their image folders.

        `folder` defaults to `home_of(beside)` if that lies in `roots`.
        """
        beside = beside.absolute()
        if folder is None and roots.contains(home := home_of(beside)):
            folder = home
        bases = [beside] if folder is None else [beside, folder]
        return cls(*(path for base in bases for path in [*_image_folders(base), base]), roots=roots)

    def find(self, name: str, where: str) -> Path:
        """The path of the image called `name`; `where` (a file and line) is used in error messages.

        Tries the name relative to each folder, then a unique file with that name, or that name without its suffix,
        anywhere in the folders. The path returned may not exist.

        Raises:
            DataError: the name is empty or leads out of the folders.
        """
        if (path := self._paths.get(name)) is None:
            path = self._paths[name] = self._find(name.strip().replace("\\", "/"), where)
            if len(self._paths) > _CACHED_PATHS:
                del self._paths[next(iter(self._paths))]
        return path

    def _find(self, name: str, where: str) -> Path:
        if not name:
            raise DataError(f"{where}: the image name is empty; add a file name or remove the line")
        inside = [path for folder in self.folders if (path := _within(folder, name))]
        if not inside:
            raise DataError(
                f"{where}: '{name}' lies outside the image folder '{self.folders[0]}'; move the images into it, or the "
                "captions into a folder above them",
                steps=[NextStep("or name a folder that contains all images", "images")],
            )
        for path in inside:
            if os.path.isfile(path):  # noqa: PTH113 (a Path takes three times as long)
                return Path(path)
        return self._by_name(name) or Path(inside[0])

    def _by_name(self, name: str) -> Path | None:
        if self._index is None:
            self._index = {}
            for path in dict.fromkeys(path for folder in self.folders for path in image_files(Path(folder))):
                for key in {path.name.lower(), path.stem.lower()}:
                    self._index[key] = None if key in self._index else path  # ambiguous names are not used
        return self._index.get(name.rsplit("/", 1)[-1].lower())


def home_of(folder: Path) -> Path:
    """The root of a data set with a caption file in `folder`: the parent of `captions` and the like, else `folder`."""
    return folder.parent if folder.name.lower() in _CAPTION_FOLDERS else folder


def image_files(folder: Path, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """The image files below a folder, by the rule of `diptych.images.walk`, at most `depth` folders deep."""
    return image_paths(folder, depth)


def _image_folders(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    folders = {entry.name.lower(): Path(entry.path) for entry in os.scandir(base) if entry.is_dir()}
    return [folders[name] for name in IMAGE_FOLDERS if name in folders]


def _within(folder: str, name: str) -> str | None:
    path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 (an absolute name replaces the folder)
    return path if path.startswith(folder.rstrip(os.sep) + os.sep) else None
