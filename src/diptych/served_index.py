"""The index of a service: opened with the models that are loaded, made when pictures first come."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from diptych.errors import DataError, ModelError
from diptych.images import decode, thumbnail
from diptych.index import HIDDEN, Added, Index, IndexBusy, ModelIdentity, Store, index_folder
from diptych.loaded import Loaded
from diptych.paths import picture_at
from diptych.progress import Progress, silent


class ServedIndex:
    """The index in `folder`, a library or an index folder, there or not yet; None takes that of the first `add`.

    `roots` are the folders that may be read into it; None allows every path.
    """

    def __init__(self, loaded: Loaded, folder: str | Path | None, roots: Sequence[str | Path] | None) -> None:
        self.roots = None if roots is None else tuple(Path(root).expanduser().resolve() for root in roots)
        self._loaded = loaded
        self._folder = index_folder(folder) if folder is not None else None
        self._index: Index | None = None
        self._opening, self._writing = threading.Lock(), threading.Lock()
        self._adding: dict[str, Any] | None = None

    def get(self) -> Index | None:
        """The index, opened when first asked for; None while there is none. One without pictures is false, not None."""
        with self._opening:
            if self._index is None and self._folder is not None and Store.is_one(self._folder):
                self._index = self._opened(self._folder)
            return self._index

    def existing(self) -> Index:
        """The index.

        Raises:
            DataError: there is none.
        """
        if (index := self.get()) is not None:
            return index
        if self._folder is None:
            raise DataError("there is no index to search; name one (--index FOLDER, or index= in Python)")
        raise DataError(f"'{self._folder}' holds no index yet; add pictures to it, or `diptych index FOLDER`")

    def add(self, path: str | Path, *, prune: bool, progress: Progress = silent, wait: float | None = None) -> Added:
        """Bring the index up to date with a folder inside the roots; makes the index if there is none.

        Raises:
            DataError: the path is outside the roots, or cannot be read.
            IndexBusy: something else still writes after `wait` seconds.
        """
        source = self.allowed(path)
        with self._alone(wait):
            self._adding = count = {"path": str(source), "seen": 0}
            nowhere = self._folder is None
            try:
                index = self._existing_or_new(source)
                return index.add(source, prune=prune, wait=wait, progress=_counting(progress, count))
            finally:
                self._adding = None
                if nowhere and not self._index:  # nothing came of it: the next folder may be the index's home
                    self._forget()

    def remove(self, ids: Sequence[str]) -> int:
        """Take out the pictures with these ids; returns how many were there. Their files are not touched."""
        store = self.existing().store
        with store.lock(wait=0):
            before = len(store)
            store.delete(list(ids))
            return before - len(store)

    def picture(self, id: str, size: int | None = None) -> Image.Image:
        """The picture of a row; with `size`, its longer side has at most so many pixels."""
        rows = self.existing().store.rows([id], ["path"])
        if not rows.num_rows:
            raise DataError(f"no picture of the index has the id '{id}'; ids are in the hits of a search")
        image = decode(picture_at(rows["path"][0].as_py()), min_side=size)
        return thumbnail(image, size) if size else image

    def status(self) -> dict[str, Any]:
        index = self.get()
        return {
            "index": str(index.folder) if index is not None else None,
            "model": index.store.identity.name if index is not None else self._loaded.name("encoder"),
            "pictures": len(index) if index is not None else 0,
            "roots": None if self.roots is None else [str(root) for root in self.roots],
            "adding": dict(self._adding) if self._adding else None,
        }

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside the roots.

        Raises:
            DataError: it does not, or is not there.
        """
        try:
            found = Path(path).expanduser().resolve()
            there = found.exists()
        except (OSError, RuntimeError, ValueError) as error:  # a NUL, no such user, too long, no permission to look
            raise DataError(f"'{path}' is not a path ({error})") from error
        if self.roots is not None and not any(found.is_relative_to(root) for root in self.roots):
            inside = ", ".join(f"'{root}'" for root in self.roots) or "none was named; name one with --root FOLDER"
            raise DataError(f"'{path}' is outside the folders that may be read: {inside}")
        if not there:
            raise DataError(f"'{path}' does not exist; check the path")
        return found

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
        Store.create(folder, self._identity(), str(folder.parent) if folder.name == HIDDEN else None)
        self._folder = folder
        return self.existing()

    def _forget(self) -> None:
        with self._opening:
            self._folder = self._index = None

    def _identity(self) -> ModelIdentity:
        name, encoder = self._loaded.name("encoder"), self._loaded.get("encoder")
        name = str(Path(name).resolve()) if Path(name).exists() else name
        return ModelIdentity(name, encoder.identity(), encoder.dim, encoder.image_size)

    def _opened(self, folder: Path) -> Index:
        """The index with the service's own model if that made it, else with the model that did."""
        try:
            return Index(folder, self._loaded.get("encoder"))
        except ModelError:
            return Index(folder, device=self._loaded.device)


def _counting(progress: Progress, count: dict[str, Any]) -> Progress:
    """The same progress, which also counts what went by."""

    def wrapped(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        for item in progress(items, total, label):
            yield item
            count["seen"] += 1

    return wrapped
