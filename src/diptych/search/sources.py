"""What can be indexed: folders of pictures, data sets with captions, tar shards. Each yields `Item`s."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from diptych.data.containers import outside, tar_members
from diptych.data.formats.image_paths import home_of
from diptych.data.formats.read import read_pairs
from diptych.data.formats.shards import SHARD_SUFFIXES, expand
from diptych.data.pairs import Pairs
from diptych.errors import ImageError
from diptych.images.decode import Picture, readable_text
from diptych.images.paths import from_text, to_text
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.images.walk import change_time, walk


@dataclass(frozen=True, slots=True)
class Item:
    """A picture to index: its path as text, where its bytes lie, their number, the time of their last change (ns).

    `caption` is None where the source knows of none, and then leaves that of the index as it is.
    """

    path: str
    picture: Picture
    size: int
    mtime: int
    caption: str | None = None


class Source(Protocol):
    """Something to index. `scope`: the beginnings of all paths that only this source has rows for.

    `roots`: the folders in which its pictures lie; what leads out of them is skipped.
    """

    scope: tuple[str, ...]
    captioned: bool
    roots: Roots

    def items(self) -> Iterator[Item | Skipped]: ...


class Folder:
    """The picture files below a folder; see `files.walk` for what is left out."""

    captioned = False

    def __init__(self, root: str | Path, exclude: Sequence[str] = (), roots: Roots | None = None) -> None:
        self.root, self.exclude = Path(root).expanduser().resolve(), tuple(exclude)
        self.roots = roots or Roots([self.root])
        self.scope: tuple[str, ...] = (to_text(self.root).rstrip("/") + "/",)

    def items(self) -> Iterator[Item | Skipped]:
        for found in walk(self.root, self.exclude, self.roots):
            if isinstance(found, Skipped):
                yield found
            else:
                yield Item(found.path, from_text(found.path), found.size, found.mtime)


class DataSet:
    """The pictures and captions of `Pairs`. A picture inside a tar is at `shard.tar/member`.

    Pictures that `read_pairs` copied into its cache, from Parquet files and compressed shards, are at `origin/id`.
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
        self._lies_inside = roots.checker()
        self._origin = to_text(Path(origin).expanduser().resolve()) if origin is not None else "pairs"

    def items(self) -> Iterator[Item | Skipped]:
        for row in self.pairs:
            caption = "\n".join(filter(None, (" ".join(each.split()) for each in row.captions))) or None
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

    def _item(self, image_id: str, picture: Picture, caption: str | None) -> Item:
        if isinstance(picture, bytes):
            raise ImageError("unreadable", f"picture '{image_id}' is held in memory, so it has no path to be found at")
        if isinstance(picture, Path):
            if not self._lies_inside(picture.absolute()):
                raise outside(to_text(picture))
            found = os.stat(picture)  # noqa: PTH116 (a Path costs three times as much, a million times)
            return Item(
                to_text(_real(picture.parent) / picture.name), picture, found.st_size, change_time(found), caption
            )
        stat = picture.path.stat()
        names = _names(picture.path, stat.st_size, stat.st_mtime_ns)
        inside = names.get(picture.offset)
        path = f"{to_text(picture.path.resolve())}/{inside}" if inside else f"{self._origin}/{image_id}"
        if inside and not self._lies_inside(picture.path.absolute()):
            raise outside(path)
        return Item(path, picture, picture.size, change_time(stat), caption)


@functools.lru_cache(maxsize=1_024)
def _real(folder: Path) -> Path:
    """A folder without links, so that a picture has one path, whether its folder is walked or a data set names it."""
    return folder.resolve()


@functools.lru_cache(maxsize=4)
def _names(shard: Path, size: int, mtime: int) -> dict[int, str]:
    """The names of a tar's members by where they begin; none for what is no uncompressed tar."""
    if shard.suffix.lower() != ".tar":
        return {}
    return {place.offset: to_text(name) for name, place in tar_members(shard, size, mtime).items()}


def source_of(
    source: str | Path | Pairs | Source,
    *,
    exclude: Sequence[str] = (),
    captions: bool = False,
    format: str | None = None,
    roots: Roots | None = None,
) -> Source:
    """What `source` names: a `Pairs`, a folder of pictures, tar shards or any other data set of `read_pairs`.

    A folder is walked for all its pictures, unless `captions` or `format` say that it is to be read as a data set.
    Nothing outside `roots` is read, which are `roots_of(source)` unless given.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(source, Pairs):
        return DataSet(source)
    if not isinstance(source, str | Path):
        return source
    path, roots = Path(source).expanduser(), roots or roots_of(source)
    if path.is_dir() and not captions and format is None:
        return Folder(path, exclude, roots)
    scope = tuple(to_text(shard.resolve()) + "/" for shard in _shards(path) if shard.is_file())
    return DataSet(read_pairs(source, format, roots=roots), path, scope, roots)


def roots_of(source: str | Path | Pairs | Source) -> Roots:
    """Where the pictures of a source may lie: below the folder that it names, or that of the data set of a file.

    The pictures of `Pairs` may lie anywhere: it was the caller who named them.
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
