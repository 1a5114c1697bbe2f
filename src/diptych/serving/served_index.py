"""The index of a service: opened with the models that are loaded, made when pictures first come."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.data.containers import read_at
from diptych.errors import DataError, DiptychError, IndexMissing, ModelError
from diptych.images.decode import decode, thumbnail
from diptych.images.roots import ANYWHERE, Roots, expand_home, is_inside
from diptych.runtime.progress import Progress, silent
from diptych.search.index import HIDDEN, Added, Index, IndexBusy, ModelIdentity, Store, index_folder
from diptych.search.permissions import allow, canonical_name, library_roots
from diptych.serving.loaded_models import LoadedModels

_MISSING = "there is no index any more or not yet; add a folder, and it is made"
_SHOWN = 200  # characters of a path in an error


class ServedIndex:
    """The index in `folder`, a library or an index folder, there or not yet; None takes that of the first `add`.

    `roots` are the folders that may be read into it; None allows every path. What lies outside them, all links
    resolved, is neither added nor served, unless `follow_links`.
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
        self._card: tuple[int, int] | None = None  # of the index that is open: another one may take its place
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._adding: dict[str, Any] | None = None

    def get(self) -> Index | None:
        """The index, opened when first asked for; None while there is none. One without pictures is false, not None."""
        with self._opening:
            if self._folder is None or not Store.is_whole(self._folder):
                self._index = self._card = None
            elif self._index is None or self._card != _stamp(self._folder):
                self._index, self._card = self._opened(self._folder), _stamp(self._folder)
            return self._index

    def existing(self) -> Index:
        """The index.

        Raises:
            IndexMissing: there is none.
        """
        if (index := self.get()) is not None:
            return index
        if self._folder is None:
            raise IndexMissing("there is no index to search; name one (--index FOLDER, or index= in Python)")
        raise IndexMissing(_MISSING)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What is raised on an index that somebody removes, damages or writes to meanwhile, without its insides.

        Raises:
            DataError: files of the index are missing or damaged.
            IndexBusy: another process writes to it.
            IndexMissing: the index is not there any more.
        """
        try:
            yield
        except IndexBusy as error:  # its message tells of a process and a folder of this machine
            raise IndexBusy("another process is writing to the index; try again when it is done") from error
        except (DiptychError, OSError, ValueError, RuntimeError) as error:
            if self._folder is not None and not Store.is_whole(self._folder):
                raise IndexMissing(_MISSING) from error
            if isinstance(error, RuntimeError) and str(error).startswith("lance error"):
                raise DataError("the index is damaged; remove its folder and add the pictures again") from error
            raise

    def add(self, path: str | Path, *, prune: bool, progress: Progress = silent, wait: float | None = None) -> Added:
        """Bring the index up to date with a folder inside the roots; makes the index if there is none.

        Raises:
            DataError: the path is outside the roots or not there, or cannot be read.
            IndexBusy: something else still writes after `wait` seconds.
        """
        source = self.allowed(path)
        with self._alone(wait):
            self._adding = count = {"path": str(source), "seen": 0}
            nowhere = self._folder is None
            try:
                index = self._existing_or_new(source)
                roots = None if self.roots is None else self._inside
                settings: dict[str, Any] = {"roots": roots, "follow_links": self.follow_links, "prune": prune}
                with self.guarded():
                    return index.add(source, **settings, wait=wait, progress=_counting(progress, count))
            finally:
                self._adding = None
                if nowhere and not self._index:  # nothing came of it: the next folder may be the index's home
                    self._forget()

    def remove(self, ids: Sequence[str]) -> int:
        """Take out the pictures with these ids; returns how many were there. Their files are not touched."""
        store = self.existing().store
        with self.guarded(), store.lock(wait=0):
            before = len(store)
            store.delete(list(ids))
            return before - len(store)

    def picture(self, id: str, size: int | None = None) -> Image.Image:
        """The picture of a row; with `size`, its longer side has at most so many pixels."""
        image = decode(self.picture_bytes(id), min_side=size)
        return thumbnail(image, size) if size else image

    def picture_bytes(self, id: str) -> bytes:
        """The encoded bytes of the picture of a row."""
        index = self.existing()
        with self.guarded():
            rows = index.store.rows([id], ["path"])
        if not rows.num_rows:
            raise DataError(f"no picture of the index has the id '{id}'; ids are in the hits of a search")
        return read_at(rows["path"][0].as_py(), index.readable)

    def readable(self) -> Roots:
        """Where the pictures of the index may lie."""
        if self.roots is None or self.follow_links:
            return ANYWHERE
        index = self.get()
        return self._inside if index is None else self._inside | library_roots(index.store)

    def status(self) -> dict[str, Any]:
        index = self.get()
        with self.guarded():
            pictures = len(index) if index is not None else 0
        return {
            "index": str(index.folder) if index is not None else None,
            "model": index.store.identity.name if index is not None else self._loaded.name("encoder"),
            "pictures": pictures,
            "roots": None if self.roots is None else [str(root) for root in self.roots],
            "adding": dict(self._adding) if self._adding else None,
        }

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside the roots.

        A path whose name already lies outside is never looked at, and whoever asks for one outside learns as little as
        of one that is not there.

        Raises:
            DataError: it does not, or is not there.
        """
        try:
            found = self._place(str(path))
            if found is not None and found.exists():
                return found
        except (OSError, RuntimeError, ValueError):  # a NUL, too long, no permission to look, a loop of links
            pass
        shown = f"{str(path)[:_SHOWN]}…" if len(str(path)) > _SHOWN else path
        if self.roots is None:
            raise DataError(f"'{shown}' does not exist; check the path")
        inside = ", ".join(f"'{root}'" for root in self.roots) or "none was named; name one with --root FOLDER"
        raise DataError(f"'{shown}' does not exist or is outside the folders that may be read: {inside}")

    def _place(self, path: str) -> Path | None:
        """Where a path leads; None outside the roots."""
        named = os.path.abspath(expand_home(path))  # noqa: PTH100 - it asks no file system
        if self._names is not None and not is_inside(named, self._names):
            return None
        return Path(named).resolve() if self.follow_links or self.roots is None else self._inside.real(named)

    @contextmanager
    def _alone(self, wait: float | None) -> Iterator[None]:
        """One thread at a time adds, since the first makes the index."""
        if not self._writing.acquire(timeout=-1 if wait is None else wait):
            adding = (self._adding or {}).get("path", "a folder")
            raise IndexBusy(f"'{adding}' is being added; try again when it is done")
        try:
            yield
        finally:
            self._writing.release()

    def _existing_or_new(self, source: Path) -> Index:
        if (index := self.get()) is not None:
            return index
        folder = self._folder or index_folder(source if source.is_dir() else source.parent)
        if self._folder is None and self.roots is not None and not self._inside.hold(folder):
            raise DataError(
                "the folder's own index is a link that leads out of the folders that may be read; remove it"
            )
        store = Store.create(folder, self._identity(), str(folder.parent) if folder.name == HIDDEN else None)
        self._trust(store)
        self._folder = folder
        return self.existing()

    def _forget(self) -> None:
        with self._opening:
            self._folder = self._index = None

    def _identity(self) -> ModelIdentity:
        encoder = self._loaded.get("encoder")
        name = canonical_name(self._loaded.name("encoder"))
        return ModelIdentity(name, encoder.identity(), encoder.dim, encoder.image_size)

    def _opened(self, folder: Path) -> Index:
        """The index with the service's own model if that made it, else with the model that did."""
        self._trust(Store.open(folder))
        try:
            index = Index(folder, self._loaded.get("encoder"))
        except ModelError:
            index = Index(folder, device=self._loaded.device)
        limited = self.roots is not None and not self.follow_links
        index.readable = self._inside | library_roots(index.store) if limited else ANYWHERE
        return index

    def _trust(self, store: Store) -> None:
        """Remember that whoever started the service named the model of an index."""
        named = self._loaded.names.get("encoder")
        if isinstance(named, str | Path) and canonical_name(named) == store.identity.name:
            allow(store, model=named)


def _stamp(folder: Path) -> tuple[int, int]:
    """By what the card of an index is told from another in its place."""
    found = (folder / "index.json").stat()
    return found.st_ino, found.st_mtime_ns


def _counting(progress: Progress, count: dict[str, Any]) -> Progress:
    """The same progress, which also counts what went by."""

    def wrapped(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for item in progress(items, total, label):
            yield item
            count["seen"] += 1

    return wrapped
