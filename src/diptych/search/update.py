"""Updating an index: one run over a source, and runs after every change of a watched folder."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diptych.data.pairs import Pairs
from diptych.errors import DataError, DiptychError
from diptych.images.exclusions import Exclusions
from diptych.images.roots import ANYWHERE, Roots
from diptych.runtime.progress import Progress, silent
from diptych.search.add import add as add_from
from diptych.search.add_report import AddReport, write_skipped
from diptych.search.exclude import exclude_below, exclusions_of
from diptych.search.layout import SKIPPED
from diptych.search.permissions import allow
from diptych.search.precomputed import add_embeddings, is_embeddings
from diptych.search.prune import LargeLoss, Prune
from diptych.search.rebase import rebase
from diptych.search.sources import Source, is_walked, roots_of, source_of
from diptych.search.store import Store
from diptych.search.watch import changes

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """The options of `Index.add`, where they are explained; `large_loss` says what happens where most rows would go."""

    exclude: Sequence[str] = ()
    reset_exclude: bool = False
    skip_system_folders: bool = True
    captions: bool = False
    format: str | None = None
    prune: Prune = "no"
    large_loss: LargeLoss = "refuse"
    roots: Roots | None = None
    follow_links: bool = False
    batch_size: int = 32
    progress: Progress = silent
    wait: float | None = None
    on_wait: Callable[[str], None] | None = None


class Updatable(Protocol):
    """What an update needs of an index."""

    store: Store
    readable: Roots

    @property
    def model(self) -> DualEncoder:
        """The model that makes the embeddings; loaded when first used."""
        ...


def update(index: Updatable, source: str | Path | Pairs | Source, options: UpdateOptions) -> AddReport:
    """Bring an index up to date with a source; see `Index.add`, which calls this."""
    store = index.store
    with store.lock(options.wait, options.on_wait), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # damaged EXIF: a line for each file
        rebased = rebase(store)
        if isinstance(source, str | Path) and is_embeddings(Path(source).expanduser()):
            report = _update_from_embeddings(index, Path(source).expanduser(), options)
        else:
            report = _update_from_images(index, source, options)
        report = replace(report, rebased=rebased)
        write_skipped(store.folder / SKIPPED, report.skipped)
    return report


def _update_from_embeddings(index: Updatable, folder: Path, options: UpdateOptions) -> AddReport:
    own = options.roots or Roots([folder])
    _allow(index, own, options.follow_links)
    roots = ANYWHERE if options.follow_links else own
    return add_embeddings(index.store, folder, roots=roots, progress=options.progress)


def _update_from_images(index: Updatable, source: str | Path | Pairs | Source, options: UpdateOptions) -> AddReport:
    own = options.roots or roots_of(source)
    exclude: Exclusions | Sequence[str] = options.exclude
    excluded, unmatched = 0, list[str]()
    root = Path(source).expanduser().resolve() if isinstance(source, str | Path) else Path()
    if is_walked(source, captions=options.captions, format=options.format):
        exclude, excluded = exclude_below(
            index.store, root, options.exclude, reset=options.reset_exclude, large_loss=options.large_loss
        )
    opened = source_of(
        source,
        exclude=exclude,
        captions=options.captions,
        format=options.format,
        skip_system_folders=options.skip_system_folders,
        roots=ANYWHERE if options.follow_links else own,
    )
    _allow(index, own, options.follow_links)
    report = add_from(
        index.store,
        opened,
        lambda: index.model,
        prune=options.prune,
        large_loss=options.large_loss,
        batch_size=options.batch_size,
        progress=options.progress,
    )
    if isinstance(exclude, Exclusions):
        unmatched = [pattern for pattern in exclude.unmatched(str(root)) if pattern in options.exclude]
    return replace(report, excluded=excluded, unmatched=tuple(unmatched))


def _allow(index: Updatable, roots: Roots, follow_links: bool) -> None:
    """Record where the images that are being added may lie."""
    anywhere = follow_links or roots.folders is None
    allow(index.store, roots=roots.folders or (), anywhere=anywhere)
    index.readable |= ANYWHERE if anywhere else roots


def watch(
    index: Updatable,
    source: str | Path,
    options: UpdateOptions,
    *,
    prune: bool | None = None,
    stop: threading.Event | None = None,
    quiet: float = 1.0,
) -> Iterator[AddReport]:
    """Update an index now and after each burst of changes in a folder; see `Index.watch`, which calls this."""
    root, store = Path(source).expanduser().resolve(), index.store
    exclusions = exclusions_of(store, root, options.exclude, reset=options.reset_exclude)
    # Watching starts before the first update, so that no change is missed.
    for changed in changes(
        root,
        exclusions,
        stop,
        quiet,
        skip_system_folders=options.skip_system_folders,
        volumes=lambda: _recorded_volumes(store),
        on_wait=options.on_wait,
    ):
        after_change: Prune = "gone" if changed and prune is None else "unnamed" if prune else "no"
        try:
            report = update(index, root, replace(options, prune=after_change))
        except (DiptychError, OSError):
            if root.is_dir() and store.is_whole(store.folder):
                raise
            continue  # the folder, or the index in it, went away meanwhile: `changes` waits for it
        yield report


def _recorded_volumes(store: Store) -> tuple[str, ...]:
    """The volumes of the images of an index, as text; none while the index itself is away with its library."""
    try:
        return tuple(store.volumes or ())
    except DataError:
        return ()
