"""Captions of an index's images: which are missing, and writing them into its rows, where filters can search them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from diptych.captioning.many_images import CaptionResult
from diptych.data.containers import image_at
from diptych.errors import ImageError
from diptych.images.decode import ImageSource
from diptych.images.paths import path_id
from diptych.images.roots import Roots
from diptych.images.skipped import Skipped
from diptych.search.layout import guarded
from diptych.search.permissions import readable_roots
from diptych.search.store import Store


class IndexCaptions:
    """Writes captions into an index. Images that have a caption are left out, unless `again`.

    Images that cannot be read are added to `skipped`. `wait` and `on_wait` are those of `Index.add`.
    """

    def __init__(
        self,
        store: Store,
        *,
        again: bool = False,
        wait: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.store, self.again, self.wait, self.on_wait = store, again, wait, on_wait
        self.skipped: list[Skipped] = []
        self.readable: Roots = readable_roots(store)

    def paths(self) -> list[str]:
        """The paths of the images to caption, sorted."""
        query = self.store.table.search().select(["path"])
        if not self.again:
            query = query.where("caption IS NULL OR caption = ''")
        with guarded(self.store.folder):
            return sorted(path for batch in query.to_batches() for path in batch["path"].to_pylist())

    def images(self, paths: Iterable[str]) -> Iterator[tuple[str, ImageSource]]:
        """(path, image) of each; images that are gone or may not be read are added to `skipped`."""
        for path in paths:
            try:
                yield path, image_at(path, self.readable)
            except ImageError as error:
                self.skipped.append(Skipped(path, error.reason, str(error)))

    def write(self, described: Iterable[CaptionResult]) -> None:
        """Write captions into the rows of their images, several of one image as lines, in one transaction.

        Raises:
            IndexBusy: another process still writes after `wait` seconds.
        """
        captions = {
            path_id(result.path): "\n".join(text.text for text in result.texts) for result in described if result.texts
        }
        with self.store.lock(self.wait, self.on_wait):
            rows = self.store.rows(list(captions))  # rows that were removed in the meantime stay removed
            column = pa.array([captions[key] for key in rows["id"].to_pylist()], pa.string())
            self.store.replace(rows.set_column(rows.schema.get_field_index("caption"), "caption", column))
            self.store.compact_if_scattered()
