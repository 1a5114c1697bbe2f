"""`diptych index`: make or update the index of a library of pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from diptych.cli.ask import shown
from diptych.cli.show import console, print_json, print_table, progress_bar, say, text_column, warn
from diptych.runtime.quoting import printable

if TYPE_CHECKING:
    from diptych.search.index import Added, Index

Item = TypeVar("Item")

_MODEL = "mini"
_SHOWN_SKIPPED = 10


def index(
    source: Path = Path(),
    *,
    index: Path | None = None,
    model: str | None = None,
    prune: Annotated[bool, Parameter(negative="")] = False,
    watch: Annotated[bool, Parameter(negative="")] = False,
    exclude: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    follow_links: Annotated[bool, Parameter(negative="")] = False,
    captions: Annotated[bool, Parameter(negative="")] = False,
    format: str | None = None,
    wait: float | None = None,
    batch_size: int = 32,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Index the pictures of a folder, so that they can be searched; run again, it reads only what changed.

    The index of `~/Photos` is the hidden folder `~/Photos/.diptych`; inside a library, its own index is found as git
    finds a repository. Renamed and copied pictures keep their vectors. Broken files are skipped and listed. The first
    run with a model also keeps what a text query needs, so that `diptych search` starts quickly.

    Parameters
    ----------
    source
        A folder of pictures, a data set with captions, tar shards, or vectors that clip-retrieval wrote.
    index
        Keep the index in this folder instead, as for a library that cannot be written to.
    model
        The model to embed with: a training run, a model directory, or a hub name. An index keeps the model it was
        made with; a new one takes mini. One that an index of somebody else names is loaded once you name it here.
    prune
        Take out pictures that are no longer there.
    watch
        Stay and follow the folder: pictures that come, change, move and go. Ctrl-C ends it.
    exclude
        Leave out names and paths that match a pattern, such as "*.thumb.jpg" or Backup; may be given several times.
    follow_links
        Also index what lies outside the folder: what links lead to, and what metadata name by other paths. Without it
        these are skipped and counted.
    captions
        Read the folder as a data set and keep its captions.
    format
        The data set's format; recognised by itself when not given.
    wait
        Seconds to wait while another process writes to the index; without it, as long as it takes.
    batch_size
        Pictures that go through the model at once.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the report as JSON, with every skipped file; with --watch one line a change.
    """
    settings: dict[str, Any] = {
        **{"exclude": exclude, "batch_size": batch_size, "wait": wait, "on_wait": warn},
        **{"captions": captions, "format": format, "progress": _progress, "follow_links": follow_links},
    }
    try:
        pruning: dict[str, Any] = {"prune": True} if prune else {}
        library = _open(source, index, model, device)
        if watch:
            for added in library.watch(source, **settings, **pruning):
                _report(library, added, as_json, brief=True)
        else:
            added = library.add(source, **settings, **pruning)
            _report(library, added, as_json)
            if added.embedded:  # the model is loaded
                _prepare(library)
    except KeyboardInterrupt:
        warn("interrupted; what was indexed is kept, and `diptych index` goes on from there")
        sys.exit(130)


def _open(source: Path, folder: Path | None, model: str | None, device: str) -> Index:
    """The index named, or the one that `source` lies in, or a new one."""
    from diptych.errors import DataError
    from diptych.search.index import Index, find_index
    from diptych.search.precomputed import is_vectors

    source = source.expanduser()
    if not source.exists() and not any(mark in source.name for mark in "*?[{"):
        raise DataError(f"'{source}' does not exist; check the path")
    home = source if source.is_dir() else source.parent
    if folder is None:
        try:
            folder = find_index(home)
        except DataError:
            folder = home / ".diptych"
    if is_vectors(source):
        return Index.for_vectors(folder, model, source)
    return Index(folder, model or (None if (folder / "index.json").exists() else _MODEL), device=device)


def _report(library: Index, added: Added, as_json: bool, brief: bool = False) -> None:
    if as_json:
        print_json(added.to_dict(), indent=None if brief else 2)
        return
    speed = f", {added.embedded / added.seconds:,.1f} new pictures a second" if added.embedded else ""
    say(f"{added.summary()} in {added.seconds:.1f} s{speed}")
    if added.skipped and not brief:
        rows = [{"reason": each.reason, "file": shown(each.path)} for each in added.skipped[:_SHOWN_SKIPPED]]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in added.reasons.items())
        print_table(f"skipped: {reasons}", rows)
        say(f"every skipped file and why: {library.folder / 'skipped.json'}")
    if added.gone:
        say(f"{added.gone:,} pictures are no longer there; --prune takes them out")
    if not brief:
        say(f"index: {library.folder} ({len(library):,} pictures)")


def _prepare(library: Index) -> None:
    with console(stderr=True).status("preparing text queries, once for this model"):
        library.keep_texts()


def _progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """A bar on standard error with pictures a second, time left, and how many were skipped."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    from diptych.search.index import Skipped

    columns = (
        *(text_column("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(text_column("{task.fields[rate]}"), text_column("left"), TimeRemainingColumn()),
        text_column("{task.fields[skipped]} skipped"),
    )
    skipped = 0
    with progress_bar(*columns) as bar:
        task = bar.add_task(printable(label), total=total, skipped=0, rate="")
        for item in items:
            yield item
            skipped += isinstance(item, Skipped)
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, skipped=skipped, rate=f"{speed:,.0f} a second" if speed else "")
