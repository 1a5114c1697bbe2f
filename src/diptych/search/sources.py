"""Sources of images to index: folders, data sets with captions, and tar shards. Each yields `Item`s."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from diptych.data.containers import tar_members
from diptych.data.formats.image_paths import home_of
from diptych.data.formats.read import read_pairs
from diptych.data.formats.shards import SHARD_SUFFIXES, expand
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, ImageError
from diptych.images.decode import ImageSource, readable_text
from diptych.images.exclusions import Exclusions
from diptych.images.image_bytes import outside
from diptych.images.paths import from_text, to_text
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.images.suffixes import UnreadFiles
from diptych.images.walk import change_time, walk


@dataclass(frozen=True, slots=True)
class Item:
    """An image to index.

    `path` is its path as text, `image` where its bytes lie, `size` their number, and `mtime` the time of their last
    change in nanoseconds. A `caption` of None leaves that of the index as it is. `is_link` is whether the path itself
    is a link, so that the file may lie on another volume than its folder.
    """

    path: str
    image: ImageSource
    size: int
    mtime: int
    caption: str | None = None
    is_link: bool = False


class Source(Protocol):
    """Images to index.

    `scope` holds path prefixes under which all rows come from this source, so that rows it no longer names can be
    pruned. `captioned` is whether its items have captions. `roots` are the folders in which its images may lie; others
    are skipped.
    """

    scope: tuple[str, ...]
    captioned: bool
    roots: Roots

    def items(self) -> Iterator[Item | Skipped]:
        """The images, and the files that cannot be read, with the reason."""
        ...


class Folder:
    """The image files below a folder; see `diptych.images.walk.walk` for what is left out.

    `unread` counts the other files of the last pass over `items`, by suffix.
    """

    captioned = False

    def __init__(
        self,
        root: str | Path,
        exclude: Sequence[str] | Exclusions = (),
        roots: Roots | None = None,
        *,
        skip_system_folders: bool = True,
    ) -> None:
        self.root = Path(root).expanduser().resolve()
        self.exclude = exclude if isinstance(exclude, Exclusions) else Exclusions({str(self.root): exclude})
        self.skip_system_folders = skip_system_folders
        self.roots = roots or Roots([self.root])
        self.unread = UnreadFiles()
        self.scope: tuple[str, ...] = (to_text(self.root).rstrip("/") + "/",)

    def items(self) -> Iterator[Item | Skipped]:
        """The images, and the files and folders that cannot be read, with the reason."""
        self.unread = unread = UnreadFiles()
        for file in walk(
            self.root, self.exclude, self.roots, skip_system_folders=self.skip_system_folders, unread=unread
        ):
            if isinstance(file, Skipped):
                yield file
            else:
                yield Item(file.path, from_text(file.path), file.size, file.mtime, is_link=file.is_link)


class DataSet:
    """The images and captions of `Pairs`.

    The path of an image in a tar is `shard.tar/member`. Images that `read_pairs` copied into its cache, from Parquet
    files and compressed shards, are at `origin/id`.
    """

    captioned = True

    def __init__(
        self,
        pairs: Pairs,
        origin: str | Path | None = None,
        scope: tuple[str, ...] = (),
        roots: Roots = ANYWHERE,
    ) -> None:
        self.pairs, self.scope, self.roots = pairs, scope, roots
        self._is_inside = roots.checker()
        self._origin = to_text(Path(origin).expanduser().resolve()) if origin is not None else "pairs"

    def items(self) -> Iterator[Item | Skipped]:
        """The images with their captions joined by line breaks, and those that cannot be read, with the reason."""
        for row in self.pairs:
            caption = "\n".join(filter(None, (" ".join(text.split()) for text in row.captions))) or None
            caption = readable_text(caption) if caption else None
            try:
                yield self._item(row.image_id, row.image, caption)
            except ImageError as error:
                yield Skipped(row.image_id, error.reason, str(error))
            except OSError as error:
                reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
                yield Skipped(row.image_id, reason, str(error))
            except ValueError as error:
                yield Skipped(row.image_id, "unreadable", str(error))

    def _item(self, image_id: str, image: ImageSource, caption: str | None) -> Item:
        if isinstance(image, bytes):
            raise ImageError("unreadable", f"image '{image_id}' is in memory, so it has no path to be found by")
        if isinstance(image, Path):
            if not self._is_inside(image.absolute()):
                raise outside(to_text(image))
            status = os.stat(image)  # noqa: PTH116 (a Path costs three times as much, a million times)
            path = to_text(_resolved(image.parent) / image.name)
            return Item(path, image, status.st_size, change_time(status), caption, image.is_symlink())
        status = image.path.stat()
        member = _member_names(image.path, status.st_size, status.st_mtime_ns).get(image.offset)
        path = f"{to_text(image.path.resolve())}/{member}" if member else f"{self._origin}/{image_id}"
        if member and not self._is_inside(image.path.absolute()):
            raise outside(path)
        return Item(path, image, image.size, change_time(status), caption)


@functools.lru_cache(maxsize=1_024)
def _resolved(folder: Path) -> Path:
    """The folder without links, so that an image has one path, whether its folder is walked or a data set names it."""
    return folder.resolve()


@functools.lru_cache(maxsize=4)
def _member_names(shard: Path, size: int, mtime: int) -> dict[int, str]:
    """The names of a tar's members by offset; empty for a file that is not an uncompressed tar."""
    if shard.suffix.lower() != ".tar":
        return {}
    return {member.offset: to_text(name) for name, member in tar_members(shard, size, mtime).items()}


def source_of(
    source: str | Path | Pairs | Source,
    *,
    exclude: Sequence[str] | Exclusions = (),
    captions: bool = False,
    format: str | None = None,
    roots: Roots | None = None,
    skip_system_folders: bool = True,
) -> Source:
    """`source` as a `Source`: `Pairs`, a folder of images, tar shards, or any other data set of `read_pairs`.

    A folder is walked for all its images, or read as a data set with `captions` or a `format`. Nothing outside `roots`
    is read; by default they are `roots_of(source)`.

    Raises:
        ConfigError: `exclude` was given for a data set.
        DataError: it is none of these.
    """
    if isinstance(source, Pairs):
        return DataSet(source)
    if not isinstance(source, str | Path):
        return source
    path, roots = Path(source).expanduser(), roots or roots_of(source)
    if is_walked(source, captions=captions, format=format):
        return Folder(path, exclude, roots, skip_system_folders=skip_system_folders)
    if exclude:
        raise ConfigError(f"'{source}' is read as a data set, where `exclude` has no effect; leave it out")
    scope = tuple(to_text(shard.resolve()) + "/" for shard in _shards(path) if shard.is_file())
    return DataSet(read_pairs(source, format, roots=roots), path, scope, roots)


def is_walked(source: str | Path | Pairs | Source, *, captions: bool = False, format: str | None = None) -> bool:
    """Whether `source_of` walks a folder for all its images, and reads no data set."""
    return isinstance(source, str | Path) and not captions and format is None and Path(source).expanduser().is_dir()


def roots_of(source: str | Path | Pairs | Source) -> Roots:
    """The folders in which the images of a source may lie: the folder that it names, or that of its data set.

    The images of `Pairs` may lie anywhere, since the caller named them.
    """
    if isinstance(source, Pairs):
        return ANYWHERE
    if not isinstance(source, str | Path):
        return getattr(source, "roots", ANYWHERE)
    path = Path(source).expanduser()
    if path.is_dir():
        return Roots([path])
    files = [file.absolute() for file in _shards(path) or [path] if file.is_file()]
    return Roots([*(home_of(file.parent) for file in files), *files])


def _shards(path: Path) -> list[Path]:
    """The shards that a path or a pattern names."""
    if not path.name.lower().endswith(SHARD_SUFFIXES):
        return []
    return [path] if path.exists() else expand(str(path))
