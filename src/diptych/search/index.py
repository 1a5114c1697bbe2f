"""The index: a library's pictures with their vectors, in a folder that knows the model which made them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.data.containers import image_at
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError, ModelError
from diptych.images.decode import Picture
from diptych.images.roots import ANYWHERE, Roots
from diptych.images.skipped import Skipped
from diptych.models.onnx.text_graph import TextEncoder, keep_text_graph, kept_text_graph
from diptych.runtime.progress import Progress, silent
from diptych.search.add import add as add_from
from diptych.search.add_report import Added, write_skipped
from diptych.search.lock import IndexBusy
from diptych.search.precomputed import add_vectors, dimension, is_vectors
from diptych.search.prune import prune_gone
from diptych.search.sources import DataSet, Folder, Item, Source, roots_of, source_of
from diptych.search.store import HIDDEN, ModelIdentity, Store
from diptych.search.trust import allow, is_allowed, model_of, readable
from diptych.search.trust import canonical_name as canonical_name
from diptych.search.watch import changes

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.search.results import Results

__all__ = [
    "Added",
    "DataSet",
    "Folder",
    "Index",
    "IndexBusy",
    "Item",
    "ModelIdentity",
    "Skipped",
    "Source",
    "Store",
    "find_index",
    "index_folder",
]

SKIPPED = "skipped.json"
_IN_MEMORY = "(a model in memory)"


def find_index(start: str | Path = ".") -> Path:
    """The index folder of the library that `start` lies in: in it or in the nearest parent that has one, as git does.

    Raises:
        DataError: neither `start` nor a parent has an index.
    """
    start = Path(start).expanduser().resolve()
    for folder in (start, *start.parents):
        for candidate in (folder / HIDDEN, folder):
            if Store.is_one(candidate):
                return candidate
    raise DataError(f"neither '{start}' nor a folder above it has an index; make one with `diptych index FOLDER`")


def index_folder(path: str | Path) -> Path:
    """Where the index called `path` lies or is to be made.

    `path` itself if it is an index, empty, or not there yet; else it is a library, and its index is `path/.diptych`.
    """
    path = Path(path).expanduser().resolve()
    if Store.is_one(path) or not path.exists() or (path.name != HIDDEN and not any(path.iterdir())):
        return path
    return path if path.name == HIDDEN else path / HIDDEN


class Index:
    """An index of pictures, to add to and to search.

    `path` is a library (its index is the hidden folder `.diptych` in it) or an index folder. `model` is a name or path
    that `diptych.load` knows, or a model; it is needed to make an index, and later only where another name for the
    same model is wanted. It is loaded when it is first needed. An index alone decides on no model but those in the box:
    another is loaded if it is given here, or was given for this index before.

    `readable` are the folders in which its pictures may lie: the library that it is hidden in, and what was added to it
    on this machine by this user. Rows that name a picture elsewhere are found, but the picture is not read.

    Raises:
        DataError: there is no index at `path` and no model to make one with.
        ModelError: `model` is not the one that made the index.
    """

    def __init__(
        self, path: str | Path, model: str | Path | DualEncoder | None = None, *, device: str = "auto"
    ) -> None:
        self.folder = index_folder(path)
        self._device, self._lock = device, threading.Lock()
        self._given: str | Path | DualEncoder | None = model
        self._model: DualEncoder | None = None
        self.store = self._open()
        if isinstance(self._given, str | Path) and self._name == self.store.identity.name:
            allow(self.store, model=self._given)
        self.readable: Roots = readable(self.store)
        self.model_lock: AbstractContextManager[object] = threading.RLock()  # held while a search runs the model

    def _open(self) -> Store:
        if self._given is None:
            return Store.open(self.folder)
        if Store.is_one(self.folder):
            store = Store.open(self.folder)
            if not isinstance(self._given, str | Path) or self._name != store.identity.name:
                store.identity.check(self._identity(), self.folder)
            return store
        root = self.folder.parent if self.folder.name == HIDDEN else None
        return Store.create(self.folder, self._identity(), str(root) if root else None)

    def _identity(self) -> ModelIdentity:
        model = self._model = self._model or self._loaded()
        return ModelIdentity(self._name, model.identity(), model.dim, model.image_size)

    @property
    def _name(self) -> str:
        if not isinstance(self._given, str | Path):
            return _IN_MEMORY
        return canonical_name(self._given)

    @cached_property
    def model_name(self) -> str | None:
        """The name by which the model may be loaded; None for one that was given in memory.

        Raises:
            UntrustedModel: only the index names it, and it was not named for this index before.
        """
        if isinstance(self._given, str | Path):
            return self._name
        if self._given is not None:
            return self.store.identity.name if is_allowed(self.store) else None
        return None if self.store.identity.name == _IN_MEMORY else model_of(self.store)

    def _loaded(self) -> DualEncoder:
        if not isinstance(self._given, str | Path | None):
            return self._given
        from diptych.models.dual_encoder import (
            load,  # takes seconds, and an index whose files are unchanged never needs it
        )

        name = self._given if self._given is not None else self.model_name
        if name is None:
            raise ModelError(f"'{self.folder}' was made by a model that was not loaded by a name; pass it as `model`")
        return load(name, self._device)

    @property
    def model(self) -> DualEncoder:
        """The model that made the index, loaded when first asked for.

        Raises:
            ModelError: it cannot be loaded, or has changed since the index was made.
        """
        with self._lock:
            if self._model is None:
                model = self._loaded()
                made = ModelIdentity(self.store.identity.name, model.identity(), model.dim, model.image_size)
                self.store.identity.check(made, self.folder)
                self._model = model
            return self._model

    @property
    def model_hash(self) -> str:
        """`DualEncoder.identity()` of the model that made the index."""
        return self.store.identity.hash or self.model.identity()

    @cached_property
    def _kept_texts(self) -> TextEncoder | None:
        made_by = self.store.identity.hash
        return kept_text_graph(made_by) if made_by else None

    @property
    def texts(self) -> TextEncoder:
        """What embeds texts as the model that made the index does: its kept graph until the model is loaded.

        Raises:
            ModelError: there is no graph, and the model cannot be loaded or has changed since the index was made.
            UntrustedModel: only the index names the model; see `model_name`.
        """
        return self._model or (self._kept_texts if self.model_name else None) or self.model

    def keep_texts(self) -> bool:
        """Keep what a later process needs to embed a text without loading the model; False where that cannot be.

        That takes some seconds, once for each model.

        Raises:
            ModelError: the model cannot be loaded, or has changed since the index was made.
        """
        from diptych.search.vocabulary import vocabulary_vectors

        vocabulary_vectors(lambda: self.texts, self.model_hash)
        return self._kept_texts is not None or keep_text_graph(self.model, self.model_hash)

    @cached_property
    def matcher(self) -> Matcher:
        """The matcher of the model that made the index, loaded when first asked for.

        Raises:
            ModelError: the model has none, or cannot be loaded.
        """
        from diptych.matching.storage import load_matcher

        if self.model_name is None:
            raise ModelError(f"the model of '{self.folder}' is in memory and brings no matcher; set `index.matcher`")
        return load_matcher(self.model_name, device=self._device)

    def image_at(self, path: str) -> Picture:
        """The picture of a row by its `path`.

        Raises:
            ImageError: `outside` - it lies outside the folders that may be read; `missing`, `unreadable`.
        """
        return image_at(path, self.readable)

    def __len__(self) -> int:
        return len(self.store)

    def add(
        self,
        source: str | Path | Pairs | Source,
        *,
        exclude: Sequence[str] = (),
        captions: bool = False,
        format: str | None = None,
        prune: bool = False,
        roots: Roots | None = None,
        follow_links: bool = False,
        batch_size: int = 32,
        progress: Progress = silent,
        wait: float | None = None,
        on_wait: Callable[[str], None] = lambda message: None,
    ) -> Added:
        """Bring the index up to date with a folder, a data set (`Pairs` or its path), tar shards, or stored vectors.

        What has not changed is not read; what moved or was copied keeps its vector; what is gone stays unless `prune`.
        With `captions`, or a `format` of `read_pairs`, a folder is read as a data set with captions. Each batch is
        one transaction, so that a run that was killed goes on where it was. While another process writes, this waits
        (`wait` seconds at most) and tells `on_wait`. The skipped files are also listed in `skipped.json` in the index.

        A picture is read if it lies inside `roots` (the folder of the source, unless given) with all links resolved;
        others are skipped as `outside`. With `follow_links` nothing is: neither links nor paths in metadata need stay
        inside. The pictures of `Pairs` are those that the caller named, and lie anywhere.

        Raises:
            DataError: the source cannot be read.
            IndexBusy: another process still writes after `wait` seconds.
            ModelError: the model is not the one that made the index.
        """
        with self.store.lock(wait, on_wait), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of damaged EXIF, a line a file
            if isinstance(source, str | Path) and is_vectors(Path(source).expanduser()):
                folder = Path(source).expanduser()
                inside = ANYWHERE if follow_links else roots or Roots([folder])
                self._allow(roots or Roots([folder]), follow_links)
                added = add_vectors(self.store, folder, roots=inside, progress=progress)
            else:
                own = roots or roots_of(source)
                found = source_of(
                    source,
                    exclude=exclude,
                    captions=captions,
                    format=format,
                    roots=ANYWHERE if follow_links else own,
                )
                self._allow(own, follow_links)
                model = lambda: self.model  # noqa: E731 - loaded only if something is to be embedded
                added = add_from(self.store, found, model, prune=prune, batch_size=batch_size, progress=progress)
            write_skipped(self.folder / SKIPPED, added.skipped)
        return added

    def _allow(self, roots: Roots, follow_links: bool) -> None:
        """Remember where the pictures that are added now may lie."""
        anywhere = follow_links or roots.folders is None
        allow(self.store, roots=roots.folders or (), anywhere=anywhere)
        self.readable |= ANYWHERE if anywhere else roots

    def prune(self, *, wait: float | None = None, on_wait: Callable[[str], None] = lambda message: None) -> Added:
        """Take out the pictures whose files are gone, wherever they lay."""
        began = time.perf_counter()
        with self.store.lock(wait, on_wait):
            pruned = prune_gone(self.store)
        return Added(pruned=pruned, unchanged=len(self), seconds=time.perf_counter() - began)

    def watch(
        self,
        source: str | Path,
        *,
        exclude: Sequence[str] = (),
        stop: threading.Event | None = None,
        quiet: float = 1.0,
        **settings: Any,
    ) -> Iterator[Added]:
        """Keep the index up to date with a folder: yields a report at first, and whenever something changed.

        Deleted pictures leave the index. `settings` are those of `add`. Ends when `stop` is set.
        """
        root = Path(source).expanduser().resolve()
        for changed in changes(root, exclude, stop, quiet):  # watching before it looks, so that nothing slips between
            yield self.add(root, exclude=exclude, **({"prune": True} if changed else {}) | settings)

    def search(self, query: Any, **settings: Any) -> Results:
        """Search the pictures; see `diptych.search.engine.search`."""
        from diptych.search.engine import search

        return search(self, query, **settings)

    @classmethod
    def for_vectors(cls, path: str | Path, model: str | None, vectors: str | Path) -> Index:
        """The index at `path`, to add the stored vectors of the folder `vectors` to; made if there is none.

        A text query loads the model, which is known by its name alone; nothing loads it now.

        Raises:
            ConfigError: the index is new and `model` does not name what made the vectors.
        """
        folder = index_folder(path)
        if not Store.is_one(folder):
            if model is None:
                raise ConfigError(
                    f"name the model that made the vectors of '{vectors}', so that texts can be searched for"
                )
            name = canonical_name(model)
            Store.create(folder, ModelIdentity(name, None, dimension(Path(vectors).expanduser())))
        index = cls(folder)
        if model is not None and canonical_name(model) in (
            index.store.identity.name,
            canonical_name(index.store.identity.name),
        ):
            allow(index.store, model=model)
        return index
