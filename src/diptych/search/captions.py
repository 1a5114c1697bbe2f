"""Captions that are written into an index: they stand beside the vectors, and a search can ask for their words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from diptych.captioning.many_images import CaptionResult
from diptych.data.containers import image_at
from diptych.errors import ImageError
from diptych.images.decode import Picture
from diptych.images.paths import path_id
from diptych.images.roots import Roots
from diptych.images.skipped import Skipped
from diptych.search.store import Store
from diptych.search.trust import readable


class IndexCaptions:
    """The captions of an index's pictures. A picture that has one is done, unless all are to be written `again`."""

    def __init__(
        self,
        store: Store,
        *,
        again: bool = False,
        wait: float | None = None,
        on_wait: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.store, self.again, self.wait, self.on_wait = store, again, wait, on_wait
        self.skipped: list[Skipped] = []
        self.readable: Roots = readable(store)

    def paths(self) -> list[str]:
        """The pictures to caption, in the order of their paths."""
        query = self.store.table.search().select(["path"])
        if not self.again:
            query = query.where("caption IS NULL OR caption = ''")
        return sorted(path for batch in query.to_batches() for path in batch["path"].to_pylist())

    def pictures(self, paths: Iterable[str]) -> Iterator[tuple[str, Picture]]:
        """(path, picture) of each; those whose files are gone or may not be read are in `skipped`."""
        for path in paths:
            try:
                yield path, image_at(path, self.readable)
            except ImageError as error:
                self.skipped.append(Skipped(path, error.reason, str(error)))

    def write(self, described: Iterable[CaptionResult]) -> None:
        """Put the captions into the pictures' rows, several of one picture as lines; one transaction."""
        captions = {path_id(each.path): "\n".join(text.text for text in each.texts) for each in described if each.texts}
        with self.store.lock(self.wait, self.on_wait):
            rows = self.store.rows(list(captions))  # those that were taken out meanwhile stay out
            column = pa.array([captions[key] for key in rows["id"].to_pylist()], pa.string())
            self.store.replace(rows.set_column(rows.schema.get_field_index("caption"), "caption", column))
            self.store.compact_if_scattered()
