"""The index of a library: its images with their embeddings, in a folder that names the model which made them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.data.containers import image_at
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError
from diptych.images.decode import ImageSource
from diptych.images.paths import texts_of
from diptych.images.roots import Roots
from diptych.images.skipped import Skipped
from diptych.runtime.progress import Progress, silent
from diptych.search import retrieval
from diptych.search.add_report import AddReport
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters
from diptych.search.index_model import IndexModel
from diptych.search.layout import find_index, guarded, index_folder
from diptych.search.lock import IndexBusy
from diptych.search.permissions import allow, canonical_name, readable_roots
from diptych.search.precomputed import dimension
from diptych.search.prune import forget, prune_gone
from diptych.search.query import QueryLike
from diptych.search.results import Results
from diptych.search.retrieval import SearchOptions, Sort
from diptych.search.sources import DataSet, Folder, Item, Source
from diptych.search.store import ModelIdentity, Store, discard_index
from diptych.search.update import UpdateOptions, update, watch

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.models.onnx.text_graph import TextEncoder

__all__ = [
    "AddReport",
    "DataSet",
    "Folder",
    "Index",
    "IndexBusy",
    "Item",
    "ModelIdentity",
    "Skipped",
    "Source",
    "Store",
    "canonical_name",
    "find_index",
    "index_folder",
]


class Index:
    """An index of images, to add to and to search.

    Args:
        path: a library, whose index is the hidden folder `.diptych` in it, or an index folder.
        model: a name or path that `diptych.load` accepts, or a model. Needed to make an index; later only to allow its
            model, or to load that from another place. It is loaded when first needed. A model that only the index
            names is loaded if it is bundled with diptych, or was given here for this index before.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Attributes:
        folder: the index folder.
        readable: the folders in which its images may be read: the library it is hidden in, and what this user added to
            it on this machine. Rows that name an image elsewhere are found, but the image is not read.

    Raises:
        DataError: there is no index at `path` and no model to make one with.
        ModelError: `model` is not the one that made the index.
    """

    def __init__(
        self, path: str | Path, model: str | Path | DualEncoder | None = None, *, device: str = "auto"
    ) -> None:
        self.folder = index_folder(path)
        self._encoder = IndexModel(self.folder, model, device)
        self.store: Store = self._encoder.store
        self.readable: Roots = readable_roots(self.store)
        self.model_lock: AbstractContextManager[object] = threading.RLock()  # held while a search runs the model

    @property
    def model(self) -> DualEncoder:
        """The model that made the index, loaded on first use.

        Raises:
            ModelError: it cannot be loaded, or has changed since the index was made.
        """
        return self._encoder.get()

    @property
    def model_name(self) -> str | None:
        """The name by which the model may be loaded; None if it was passed in memory.

        Raises:
            UntrustedModel: only the index names it, and it was never allowed for this index.
        """
        return self._encoder.name

    @property
    def model_fingerprint(self) -> str:
        """`DualEncoder.fingerprint()` of the model that made the index."""
        return self._encoder.fingerprint

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of text queries: the model if it is loaded, else its text graph in the cache, else the model.

        Raises:
            ModelError: there is no graph, and the model cannot be loaded or has changed since the index was made.
            UntrustedModel: only the index names the model; see `model_name`.
        """
        return self._encoder.text_encoder

    def cache_text_encoder(self) -> bool:
        """Cache what a later process needs to embed a text without the model; False if the model has no such graph.

        Takes some seconds, once for each model.

        Raises:
            ModelError: the model cannot be loaded, or has changed since the index was made.
        """
        return self._encoder.cache_text_encoder()

    @property
    def matcher(self) -> Matcher:
        """The matcher of the model that made the index, loaded on first use.

        Raises:
            ModelError: the model has none, or cannot be loaded.
        """
        return self._encoder.matcher

    def image_at(self, path: str) -> ImageSource:
        """The image of a row by its `path`.

        Raises:
            ImageError: `outside` (of the folders that may be read), `missing` or `unreadable`.
        """
        return image_at(path, self.readable)

    def __len__(self) -> int:
        """How many images the index has."""
        return len(self.store)

    def add(
        self,
        source: str | Path | Pairs | Source,
        *,
        exclude: Sequence[str] = (),
        reset_exclude: bool = False,
        skip_system_folders: bool = True,
        captions: bool = False,
        format: str | None = None,
        prune: bool = False,
        prune_all: bool = False,
        roots: Roots | None = None,
        follow_links: bool = False,
        batch_size: int = 32,
        progress: Progress = silent,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> AddReport:
        """Bring the index up to date with a folder, a data set (`Pairs` or its path), tar shards, or stored embeddings.

        Files that have not changed are not read; moved or copied files keep their embedding; missing ones stay unless
        `prune`. Each batch is a transaction, so that an interrupted run continues where it stopped. Skipped files are
        also listed in `skipped.json` in the index folder.

        Args:
            source: what to index.
            exclude: patterns of files and folders to leave out, as in `.gitignore`, such as `*.thumb.jpg` or `Backup/`.
                They are remembered with the index, and rows that they leave out are removed.
            reset_exclude: forget the patterns of earlier runs over this folder, and those of folders around or in it.
            skip_system_folders: leave out the recycle bins, snapshots and caches of
                `images.system_folders.SYSTEM_FOLDERS`.
            captions: read a folder as a data set with captions.
            format: the format of the data set, as for `read_pairs`; implies `captions`.
            prune: remove images of the source that are gone. Images in a folder or on a volume that cannot be reached
                now always stay.
            prune_all: `prune` and `exclude`, even if most images of the source are removed.
            roots: folders in which images may lie, all links resolved; by default that of the source. Others are
                skipped as `outside`. Images of `Pairs` may lie anywhere, since the caller named them.
            follow_links: let links and paths in metadata lead anywhere.
            batch_size: images that are embedded at once.
            progress: wraps the images to report progress.
            wait: seconds to wait while another process writes; None for as long as it takes.
            on_wait: called with a message when waiting starts.

        Raises:
            ConfigError: a pattern of `exclude` is not valid, or the source is a data set.
            DataError: the source cannot be read, or most of its images would be removed without `prune_all`.
            IndexBusy: another process still writes after `wait` seconds.
            ModelError: the model is not the one that made the index.
        """
        options = UpdateOptions(
            exclude=exclude,
            reset_exclude=reset_exclude,
            skip_system_folders=skip_system_folders,
            captions=captions,
            format=format,
            prune="unnamed" if prune or prune_all else "no",
            large_loss="remove" if prune_all else "refuse",
            roots=roots,
            follow_links=follow_links,
            batch_size=batch_size,
            progress=progress,
            wait=wait,
            on_wait=on_wait,
        )
        return update(self, source, options)

    def prune(
        self,
        *,
        prune_all: bool = False,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> AddReport:
        """Remove the images whose files are known to be gone, wherever they were; options as in `add`.

        Raises:
            DataError: most images would be removed, without `prune_all`.
            IndexBusy: another process still writes after `wait` seconds.
        """
        began = time.perf_counter()
        with self.store.lock(wait, on_wait):
            removed = prune_gone(self.store, "remove" if prune_all else "refuse")
        return AddReport(
            pruned=removed.pruned,
            unreachable=removed.unreachable,
            unchanged=len(self) - removed.unreachable,
            seconds=time.perf_counter() - began,
        )

    def forget(
        self,
        folder: str | Path,
        *,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> int:
        """Remove the images in a folder, whether they exist or not, and return how many; files are not touched.

        For a drive that never comes back. An image may be named as well; `wait` and `on_wait` as in `add`.

        Raises:
            IndexBusy: another process still writes after `wait` seconds.
        """
        with self.store.lock(wait, on_wait):
            return sum(forget(self.store, text) for text in texts_of(folder))

    def watch(
        self,
        source: str | Path,
        *,
        exclude: Sequence[str] = (),
        reset_exclude: bool = False,
        skip_system_folders: bool = True,
        stop: threading.Event | None = None,
        quiet: float = 1.0,
        captions: bool = False,
        format: str | None = None,
        prune: bool | None = None,
        prune_all: bool = False,
        roots: Roots | None = None,
        follow_links: bool = False,
        batch_size: int = 32,
        progress: Progress = silent,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[AddReport]:
        """Keep the index up to date with a folder: yields a report at the start, and after each burst of changes.

        A burst ends when nothing has changed for `quiet` seconds. Deleted images leave the index: `prune` is None for
        all runs but the first, True for all, or False for none. Where most images were deleted, they stay and are
        reported as `gone`, unless `prune_all`. While the folder or a drive with some of its images is away, these stay,
        and watching goes on when it is back. Other options are those of `add`. Ends when `stop` is set.

        Raises:
            DataError, IndexBusy, ModelError: as `add`.
            MissingExtra: watchfiles is not installed.
        """
        options = UpdateOptions(
            exclude=exclude,
            reset_exclude=reset_exclude,
            skip_system_folders=skip_system_folders,
            captions=captions,
            format=format,
            large_loss="remove" if prune_all else "keep",
            roots=roots,
            follow_links=follow_links,
            batch_size=batch_size,
            progress=progress,
            wait=wait,
            on_wait=on_wait,
        )
        return watch(self, source, options, prune=True if prune_all else prune, stop=stop, quiet=quiet)

    def search(
        self,
        query: QueryLike,
        *,
        k: int = 20,
        page: int = 1,
        filters: Filters | None = None,
        where: str | None = None,
        sort: Sort = "score",
        keep: float | None = KEEP,
        fold: bool = True,
        rerank: int = 0,
        matcher: Matcher | None = None,
    ) -> Results:
        """The images that match a query, `k` to a page.

        Args:
            query: a text, an image (`Path`, encoded bytes, PIL image), or a `Query` of several parts. The rows that a
                query names are not among its own hits.
            k: hits on a page.
            page: which page, from 1; `k * page` is at most 5,000.
            filters: conditions on the images.
            where: an SQL condition on the columns of the index, for what `filters` lacks. Never build it from input
                that you do not trust.
            sort: by `score`, or by date (`newest`, `oldest`) among the images that match.
            keep: the relevance cutoff of a text query, as the share in [0, 1] of the queries with a match that still
                find one: lower is stricter, and a text that matches nothing finds nothing. None: no cutoff, the nearest
                images whether they match or not. Queries by image or row have no cutoff.
            fold: show copies of an image as one hit.
            rerank: how many of the first hits of a query by one text to order by P(match) of a matcher.
            matcher: the matcher to re-rank with; by default that of the model.

        Raises:
            ConfigError: an option is out of range, or `where` is not a condition on the index's columns.
            DataError: a row of the query is not in the index.
            ImageError: an image of the query cannot be decoded.
            ModelError: the model that made the index cannot be loaded, has changed, or has no matcher.
        """
        options = SearchOptions(
            k=k,
            page=page,
            filters=filters,
            where=where,
            sort=sort,
            keep=keep,
            fold=fold,
            rerank=rerank,
            matcher=matcher,
        )
        with guarded(self.folder):
            return retrieval.search(self, query, options)

    @classmethod
    def rebuild(cls, path: str | Path, model: str | Path | DualEncoder, *, device: str = "auto") -> Index:
        """An empty index by `model` in place of the one at `path`, damaged or not; its exclusions are kept.

        Raises:
            DataError: the folder holds other files than those of an index.
            IndexBusy: another process writes to it.
            ModelError: the model cannot be loaded.
        """
        exclude = discard_index(index_folder(path))
        index = cls(path, model, device=device)
        with index.store.lock():
            index.store.record_exclusions(exclude)
        return index

    @classmethod
    def for_embeddings(cls, path: str | Path, model: str | None, vectors: str | Path) -> Index:
        """The index at `path` for the stored embeddings in the folder `vectors`; made if it does not exist.

        The model is only recorded by its name; a text query will load it.

        Raises:
            ConfigError: the index is new and `model` does not name what made the embeddings.
        """
        folder = index_folder(path)
        if not Store.is_index(folder):
            if model is None:
                raise ConfigError(
                    f"name the model that made the embeddings of '{vectors}', so that texts can be searched for"
                )
            name = canonical_name(model)
            Store.create(folder, ModelIdentity(name, None, dimension(Path(vectors).expanduser())))
        index = cls(folder)
        recorded = index.store.identity.name
        if model is not None and canonical_name(model) in (recorded, canonical_name(recorded)):
            allow(index.store, model=model)
        return index
