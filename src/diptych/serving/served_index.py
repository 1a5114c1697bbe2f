"""The index of a service: opened with the loaded models, created by the first `add`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import DataError, DiptychError, IndexMissing, ModelError, NextStep
from diptych.images.decode import decode, read_bytes, thumbnail
from diptych.images.paths import from_text
from diptych.images.roots import ANYWHERE, Roots, expand_home, is_inside
from diptych.runtime.progress import Progress, silent
from diptych.search.index import AddReport, Index, IndexBusy, ModelIdentity, Store, index_folder
from diptych.search.layout import HIDDEN, IndexDamaged
from diptych.search.permissions import allow, canonical_name, library_roots
from diptych.serving.loaded_models import LoadedModels
from diptych.serving.results import AddProgress, IndexStatus

Item = TypeVar("Item")

_DAMAGED = "the index is damaged; make it again on the server with `diptych index FOLDER --rebuild`"
_MISSING = "the index does not exist, or was removed; add a folder to create it"
_MAX_SHOWN = 200  # characters of a path in an error


class ServedIndex:
    """The index in `folder`, a library or an index folder that may not exist yet; None takes that of the first `add`.

    `roots` are the folders that may be added; None allows every path. Files outside them, with all links resolved, are
    neither added nor served, unless `follow_links`. Thread-safe.
    """

    def __init__(
        self,
        loaded: LoadedModels,
        folder: str | Path | None,
        roots: Sequence[str | Path] | None,
        *,
        follow_links: bool = False,
    ) -> None:
        named = None if roots is None else [Path(root).expanduser().absolute() for root in roots]
        self.named_roots = named
        self.roots = None if named is None else tuple(root.resolve() for root in named)
        self.follow_links = follow_links
        self._inside = Roots(self.roots)
        self._names = None if named is None else tuple(map(str, (*named, *(self.roots or ()))))
        self._loaded = loaded
        self._folder = index_folder(folder) if folder is not None else None
        self._index: Index | None = None
        self._version: tuple[int, int] | None = None  # of the open index: another one may replace it on disk
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._adding: AddProgress | None = None

    def get(self) -> Index | None:
        """The index, opened on first use; None while there is none. An index without images is falsy, but not None."""
        with self._opening:
            if self._folder is None or not Store.is_whole(self._folder):
                self._index = self._version = None
            elif self._index is None or self._version != _version_of(self._folder):
                self._index, self._version = self._opened(self._folder), _version_of(self._folder)
            return self._index

    def existing(self) -> Index:
        """The index.

        Raises:
            IndexMissing: there is none.
        """
        if (index := self.get()) is not None:
            return index
        if self._folder is None:
            raise IndexMissing(
                "there is no index to search; start with the folder of one", steps=[NextStep("name it", "index")]
            )
        raise IndexMissing(_MISSING)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Translate errors of an index that is removed, damaged or written to during the context.

        Messages name no process or path of this machine.

        Raises:
            DataError: files of the index are missing or damaged.
            IndexBusy: another process writes to it.
            IndexMissing: the index was removed.
        """
        try:
            yield
        except IndexBusy as error:  # its message names a process and a folder of this machine
            raise IndexBusy("another process is writing to the index; try again when it is done") from error
        except (DiptychError, OSError, ValueError, RuntimeError) as error:
            if self._folder is not None and not Store.is_whole(self._folder):
                raise IndexMissing(_MISSING) from error
            if isinstance(error, IndexDamaged):  # its message names a folder of this machine
                raise DataError(_DAMAGED) from error
            raise

    def add(
        self, path: str | Path, *, prune: bool, progress: Progress = silent, wait: float | None = None
    ) -> AddReport:
        """Bring the index up to date with a folder inside the roots; creates the index if there is none.

        Raises:
            DataError: the path is outside the roots, does not exist, or cannot be read.
            IndexBusy: something else still writes after `wait` seconds.
        """
        source = self.allowed(path)
        with self._only_writer(wait):
            self._adding = AddProgress(str(source), 0)
            had_folder = self._folder is not None
            try:
                index = self._existing_or_new(source)
                with self.guarded():
                    return index.add(
                        source,
                        roots=None if self.roots is None else self._inside,
                        follow_links=self.follow_links,
                        prune=prune,
                        wait=wait,
                        progress=self._counted(progress),
                    )
            finally:
                self._adding = None
                if not had_folder and not self._index:  # nothing was added: the next folder may hold the index
                    self._forget()

    def remove(self, ids: Sequence[str]) -> int:
        """Remove the images with these ids; returns how many were in the index. Their files are not touched."""
        store = self.existing().store
        with self.guarded(), store.lock(wait=0):
            before = len(store)
            store.delete(list(ids))
            return before - len(store)

    def image(self, image_id: str, size: int | None = None) -> Image.Image:
        """An indexed image; with `size`, its longer side has at most `size` pixels. Raises as `image_bytes`."""
        image = decode(self.image_bytes(image_id), min_side=size)
        return thumbnail(image, size) if size else image

    def image_bytes(self, image_id: str) -> bytes:
        """The encoded bytes of an indexed image.

        Raises:
            DataError: there is no index, or the id is not in it.
            ImageError: the file is gone, or lies outside the folders that may be read.
        """
        index = self.existing()
        with self.guarded():
            rows = index.store.rows([image_id], ["path"])
        if not rows.num_rows:
            raise DataError(f"no indexed image has the id '{image_id}'; search results contain the ids")
        return read_at(rows["path"][0].as_py(), index.readable)

    def readable(self) -> Roots:
        """The folders in which indexed images may lie."""
        if self.roots is None or self.follow_links:
            return ANYWHERE
        index = self.get()
        return self._inside if index is None else self._inside | library_roots(index.store)

    def read_allowed(self, path: str | Path) -> bytes:
        """The bytes of an image file inside the roots, named as for `allowed`, even if a link replaces it meanwhile.

        Raises:
            DataError: it lies outside, does not exist, or cannot be read.
        """
        return read_bytes(self.allowed(path), roots=ANYWHERE if self.follow_links else self._inside)

    def status(self) -> IndexStatus:
        """The index's folder, its model, its number of images, the roots, and the folder being added now."""
        index = self.get()
        with self.guarded():
            count = len(index) if index is not None else 0
        return IndexStatus(
            index=str(index.folder) if index is not None else None,
            model=index.store.identity.name if index is not None else self._loaded.name("encoder"),
            images=count,
            roots=None if self.roots is None else tuple(map(str, self.roots)),
            adding=self._adding,
        )

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside the roots.

        A `file:` URI is the path that it names, and a path as search results show it is that of the file. A relative
        path is looked for in the working directory and then in each root. A path that lies outside by its name is never
        looked up, and the error is the same whether it exists or not.

        Raises:
            DataError: it lies outside, or does not exist.
        """
        try:
            for named in self._meanings(str(path)):
                resolved = self._resolved(named)
                if resolved is not None and resolved.exists():
                    return resolved
        except (OSError, RuntimeError, ValueError):  # a NUL, too long, no permission to look, a loop of links
            pass
        shown = f"{str(path)[:_MAX_SHOWN]}…" if len(str(path)) > _MAX_SHOWN else path
        if self.roots is None:
            raise DataError(f"'{shown}' does not exist; check the path")
        inside = ", ".join(f"'{root}'" for root in self.roots) or "none was named; name one with --root FOLDER"
        raise DataError(f"'{shown}' does not exist or is outside the folders that may be read: {inside}")

    def _meanings(self, path: str) -> Iterator[str]:
        """The absolute paths that a name may stand for, in order; none of them is looked up."""
        path = path_of_uri(path)
        if "\0" in path:
            return
        for spelled in dict.fromkeys((path, str(from_text(path)))):  # search results show paths by `to_text`
            yield os.path.abspath(expand_home(spelled))  # noqa: PTH100 - it does not touch the file system
            below = Path(os.path.normpath(spelled))
            if not below.is_absolute() and below.parts and below.parts[0] != os.pardir and spelled[:1] != "~":
                yield from (str(root / below) for root in self.named_roots or ())

    def _resolved(self, named: str) -> Path | None:
        """An absolute path with its links resolved; None outside the roots."""
        if self._names is not None and not is_inside(named, self._names):
            return None
        return Path(named).resolve() if self.follow_links or self.roots is None else self._inside.real(named)

    @contextmanager
    def _only_writer(self, wait: float | None) -> Iterator[None]:
        """One thread at a time adds: the first one creates the index."""
        if not self._writing.acquire(timeout=-1 if wait is None else wait):
            adding = self._adding.path if self._adding else "a folder"
            raise IndexBusy(f"'{adding}' is being added; try again when it is done")
        try:
            yield
        finally:
            self._writing.release()

    def _existing_or_new(self, source: Path) -> Index:
        if (index := self.get()) is not None:
            return index
        folder = self._folder or index_folder(source if source.is_dir() else source.parent)
        if self._folder is None and self.roots is not None and not self._inside.contains(folder):
            raise DataError(
                "the folder's own index is a link that leads out of the folders that may be read; remove it"
            )
        try:
            store = Store.create(folder, self._identity(), str(folder.parent) if folder.name == HIDDEN else None)
        except IndexDamaged as error:  # its message names a folder of this machine
            raise DataError(_DAMAGED) from error
        self._trust(store)
        self._folder = folder
        return self.existing()

    def _counted(self, progress: Progress) -> Progress:
        """The same progress, which also counts the processed items in `status`."""

        def wrapped(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
            for item in progress(items, total, label):
                yield item
                if (adding := self._adding) is not None:
                    self._adding = AddProgress(adding.path, adding.seen + 1)

        return wrapped

    def _forget(self) -> None:
        with self._opening:
            self._folder = self._index = None

    def _identity(self) -> ModelIdentity:
        encoder = self._loaded.get("encoder")
        name = canonical_name(self._loaded.name("encoder"))
        return ModelIdentity(name, encoder.fingerprint(), encoder.dim, encoder.image_size)

    def _opened(self, folder: Path) -> Index:
        """The index with the service's encoder if that made it, otherwise with the model that did."""
        self._trust(Store.open(folder))
        try:
            index = Index(folder, self._loaded.get("encoder"))
        except ModelError:
            index = Index(folder, device=self._loaded.device)
        limited = self.roots is not None and not self.follow_links
        index.readable = self._inside | library_roots(index.store) if limited else ANYWHERE
        index.model_lock = self._loaded.lock("encoder")
        return index

    def _trust(self, store: Store) -> None:
        """Trust the index's model if the user who started the service named it."""
        named = self._loaded.names.get("encoder")
        if isinstance(named, str | Path) and canonical_name(named) == store.identity.name:
            allow(store, model=named)


def path_of_uri(text: str) -> str:
    """The path that a `file:` URI of this machine names, byte for byte; any other text as it is."""
    parts = urlsplit(text) if text[:5].lower() == "file:" else None
    if parts is None or parts.netloc.lower() not in ("", "localhost") or not parts.path.startswith("/"):
        return text
    if os.name == "nt":
        from urllib.request import url2pathname  # slow to import

        return url2pathname(parts.path)
    return os.fsdecode(unquote_to_bytes(parts.path))


def _version_of(folder: Path) -> tuple[int, int]:
    """The inode and modification time of an index's metadata: they change when another index replaces it."""
    stat = (folder / "index.json").stat()
    return stat.st_ino, stat.st_mtime_ns
