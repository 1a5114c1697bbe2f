"""`diptych index`: create or update the index of a library of images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter, validators

from diptych.cli.options import COMMON, BatchSize, Common, Flag, FollowLinks, Format, Several, SeveralPaths, check_model
from diptych.cli.show import (
    note,
    print_json,
    print_table,
    progress_bar,
    relative_path,
    set_quiet,
    status,
    text_column,
    warn,
)
from diptych.runtime.quoting import printable

if TYPE_CHECKING:
    from diptych.search.index import AddReport, Index

Item = TypeVar("Item")

_MODEL = "mini"
_SHOWN_SKIPPED = 10


def index(
    source: Path | None = None,
    *,
    index: Path | None = None,
    model: Annotated[str | None, Parameter(validator=check_model)] = None,
    prune: Flag = False,
    prune_all: Flag = False,
    forget: SeveralPaths = (),
    rebuild: Flag = False,
    watch: Flag = False,
    exclude: Several = (),
    reset_exclude: Flag = False,
    skip_system_folders: Annotated[bool, Parameter(negative="--no-skip-system-folders", show_default=False)] = True,
    follow_links: FollowLinks = False,
    captions: Annotated[bool, Parameter("--with-captions", negative="")] = False,
    format: Format = None,
    wait: Annotated[float | None, Parameter("--lock-timeout", validator=validators.Number(gte=0))] = None,
    batch_size: BatchSize = 32,
    common: Common = COMMON,
) -> None:
    """Index a folder of images, so that it can be searched.

    Run it again after changes: only new and changed files are read, and moved or copied images keep their embeddings.
    Files that cannot be decoded are skipped and listed. The index of `~/Photos` is stored in `~/Photos/.diptych`.
    Inside a library (a folder with an index), the index is found automatically, the way git finds its repository.

    Parameters
    ----------
    source
        A folder of images, a data set with captions, tar shards, or embeddings written by clip-retrieval. Default: the
        working folder.
    index
        Store the index in this folder instead, for example if the library is read-only.
    model
        Model that computes the embeddings: a training run, a model directory or a hub name. The default is the model
        of the existing index, or mini for a new one. To update an index that someone else made, name its model here.
    prune
        Remove from the index images that no longer exist. Images on a drive or in a folder that cannot be reached now
        are always kept.
    prune_all
        Like --prune, and continue even if --prune or --exclude removes most images of the source.
    forget
        First remove all images in this folder from the index, whether they exist or not; files are not touched.
    rebuild
        Discard a damaged index and build it again from scratch. Exclude patterns are kept.
    watch
        Keep running and follow changes in the folder. Press Ctrl-C to stop.
    exclude
        Leave out files and folders that match a pattern, as in .gitignore: "*.thumb.jpg", Backup/, 2019/raw. The
        patterns are remembered for later runs, and images that they leave out are removed from the index. Put the
        source before this option.
    reset_exclude
        Forget the --exclude patterns of earlier runs on this folder.
    skip_system_folders
        Leave out the recycle bins, snapshots and caches (#recycle, @eaDir, *.lrdata) of network storage and photo
        programs.
    captions
        Read the source as a captioned data set and store its captions.
    wait
        Maximum number of seconds to wait while another process writes to the index. Default: no limit.
    """
    set_quiet(common.quiet, common.as_json)
    source = source or _working_folder(exclude)
    settings: dict[str, Any] = {
        **{
            "exclude": exclude,
            "skip_system_folders": skip_system_folders,
            "batch_size": batch_size,
            "wait": wait,
            "on_wait": warn,
        },
        **{"captions": captions, "format": format, "progress": _progress, "follow_links": follow_links},
        **{"reset_exclude": reset_exclude, "prune_all": prune_all},
        **({"prune": True} if prune else {}),
    }
    try:
        opened = _open(source, index, model, common.device, rebuild)
        for folder in forget:
            note(f"{opened.forget(folder, wait=wait, on_wait=warn):,} images below '{folder}' are forgotten")
        if watch:
            for added in opened.watch(source, **settings):
                _report(opened, added, common.as_json, brief=True)
        else:
            added = opened.add(source, **settings)
            _report(opened, added, common.as_json)
            if added.embedded:  # the model is loaded
                with status("preparing text queries, once per model"):
                    opened.cache_text_encoder()
    except KeyboardInterrupt:
        warn("interrupted; indexed images are kept, and `diptych index` continues from there")
        sys.exit(130)


def _working_folder(exclude: tuple[str, ...]) -> Path:
    """The default source, unless the last pattern of `--exclude` may be meant as the source."""
    from diptych.errors import ConfigError

    if len(exclude) > 1 and Path(exclude[-1]).is_dir():
        raise ConfigError(
            f"'{exclude[-1]}' was read as a pattern of --exclude; put the source first: "
            "diptych index FOLDER --exclude PATTERN (`.` for the working folder)"
        )
    return Path()


def _open(source: Path, folder: Path | None, model: str | None, device: str, rebuild: bool) -> Index:
    """The named index, the one of the library that contains `source`, or a new one."""
    from diptych.errors import DataError
    from diptych.search.index import Index, find_index, index_folder
    from diptych.search.permissions import recorded_model
    from diptych.search.precomputed import is_embeddings
    from diptych.search.store import discard_index

    source = source.expanduser()
    if not source.exists() and not any(wildcard in source.name for wildcard in "*?[{"):
        raise DataError(f"'{source}' does not exist; check the path")
    home = source if source.is_dir() else source.parent
    if folder is None:
        try:
            folder = find_index(home)
        except DataError:
            folder = home / ".diptych"
    if rebuild:
        model = model or recorded_model(index_folder(folder))
    if is_embeddings(source):
        if rebuild:
            discard_index(index_folder(folder))
        return Index.for_embeddings(folder, model, source)
    if rebuild:
        return Index.rebuild(folder, model or _MODEL, device=device)
    return Index(folder, model or (None if (folder / "index.json").exists() else _MODEL), device=device)


def _report(index: Index, added: AddReport, as_json: bool, brief: bool = False) -> None:
    if as_json:
        print_json(added.to_dict(), indent=None if brief else 2)
        return
    speed = f", {added.embedded / added.seconds:,.1f} new images per second" if added.embedded else ""
    note(f"{added.summary()} in {added.seconds:.1f} s{speed}")
    if added.skipped and not brief:
        rows = [{"reason": file.reason, "file": relative_path(file.path)} for file in added.skipped[:_SHOWN_SKIPPED]]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in added.reasons.items())
        print_table(f"skipped: {reasons}", rows)
        note(f"all skipped files with reasons: {index.folder / 'skipped.json'}")
    for pattern in added.unmatched:
        warn(f"--exclude '{pattern}' matches nothing; patterns are those of .gitignore, relative to the folder")
    if not brief and (unread := added.unread_summary()):
        note(f"not read: {unread}; save them as JPEG or PNG to index them")
    if added.gone:
        way = "--prune removes them" if not brief else "to remove most of a library, run with --prune-all once"
        note(f"{added.gone:,} indexed images no longer exist; {way}")
    if added.unreachable:
        folders = ", ".join(f"'{folder}'" for folder in added.unreachable_folders)
        note(f"{added.unreachable:,} indexed images cannot be reached now and are kept; is a drive off? {folders}")
    if not brief:
        note(f"index: {index.folder} ({len(index):,} images)")


def _progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """A progress bar on standard error with images per second, time left and the number of skipped files."""
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
            bar.update(task, advance=1, skipped=skipped, rate=f"{speed:,.0f} per second" if speed else "")
