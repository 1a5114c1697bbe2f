"""`diptych search`, `dedupe` and `cluster`: what the pictures of an index show."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.show import print_table, say
from diptych.index.ask import Sort
from diptych.index.cutoff import KEEP
from diptych.index.filters import Filters

if TYPE_CHECKING:
    from diptych.index import Index
    from diptych.index.dedupe import Duplicates
    from diptych.index.gallery import Gallery
    from diptych.index.results import Results
    from diptych.index.themes import Theme

_CARDS = 24  # pictures of each theme in a gallery

Several = Annotated[tuple[str, ...], Parameter(negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter("--json", negative="")]


def search(
    *texts: str,
    image: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    like: Several = (),
    unwanted: Annotated[tuple[str, ...], Parameter("--not", negative="")] = (),
    unwanted_image: Annotated[tuple[Path, ...], Parameter("--not-image", negative="")] = (),
    unwanted_like: Annotated[tuple[str, ...], Parameter("--not-like", negative="")] = (),
    filters: Annotated[Filters, Parameter(name="*")] = Filters(),  # noqa: B008 - frozen
    k: Annotated[int, Parameter(("--k", "-k"))] = 20,
    page: int = 1,
    sort: Sort = "score",
    keep: float = KEEP,
    nearest: Flag = False,
    fold: bool = True,
    out: Path | None = None,
    paths: Flag = False,
    null: Annotated[bool, Parameter(("--null", "-0"), negative="")] = False,
    as_json: Json = False,
    index: Path | None = None,
    device: str = "auto",
) -> None:
    """Search an index: by text, by picture, by what is not wanted, or by all of these.

    A text that matches nothing finds nothing, and says so. In a library or below it, the library's index is found as
    git finds a repository.

    Parameters
    ----------
    texts
        What the pictures should show; several are added. A number after ^ weighs one: "a dog^2".
    image
        A picture file that the pictures should be like; this and the next four may be given several times.
    like
        A picture of the index, by its path or id, that the pictures should be like.
    unwanted
        What they should not show; counts half unless weighed.
    unwanted_image
        A picture file that they should not be like.
    unwanted_like
        A picture of the index that they should not be like.
    k
        Pictures a page.
    page
        Which page, from 1.
    sort
        score, or by date: newest, oldest.
    keep
        Share of the queries with a match that still find one: less is stricter, 1 the most lenient.
    nearest
        Show the nearest pictures, whether they match or not.
    fold
        Show copies of one picture once.
    out
        Also write the pictures to an HTML page (.html) or a contact sheet (.png).
    paths
        Print paths alone, one a line, for other programs.
    null
        With --paths, end each with a NUL byte: for `xargs -0`.
    as_json
        Print the results as JSON.
    index
        The library or index folder to search; else the one that the working folder lies in.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.index.gallery import gallery_of
    from diptych.index.query import Query

    query = Query.of(
        texts,
        image=image,
        like=like,
        unwanted=unwanted,
        unwanted_image=unwanted_image,
        unwanted_like=unwanted_like,
    )
    library = _open(index, device)
    results = library.search(
        query, k=k, page=page, filters=filters, sort=sort, keep=None if nearest else keep, fold=fold
    )
    written = _save(gallery_of(results), out)
    if as_json:
        print(json.dumps(results.as_dict(), indent=2, ensure_ascii=False))
    elif paths or null:
        _print_paths((hit.path for hit in results), b"\0" if null else b"\n")
        if not results.hits:
            print(f"diptych: {results.message}", file=sys.stderr)
    else:
        _print_results(results, written)


def dedupe(
    *,
    out: Path | None = None,
    as_json: Json = False,
    paths: Flag = False,
    null: Annotated[bool, Parameter(("--null", "-0"), negative="")] = False,
    index: Path | None = None,
) -> None:
    """Find pictures that are the same one: copied, resized, compressed again. Deletes nothing.

    Of each group the best is to be kept: the one with the most pixels, then the most bytes, then the oldest.

    Parameters
    ----------
    out
        Also write the groups to an HTML page (.html) or contact sheets (.png).
    as_json
        Print the groups as JSON.
    paths
        Print the paths of the others alone, never of the one to keep.
    null
        The same, each ended with a NUL byte: for `xargs -0`.
    index
        The library or index folder; else the one that the working folder lies in.
    """
    from diptych.index.dedupe import find_duplicates

    groups = find_duplicates(_open(index))
    written = _save(_duplicates_gallery(groups), out)
    if as_json:
        print(json.dumps([group.as_dict() for group in groups], indent=2, ensure_ascii=False))
    elif paths or null:
        _print_paths((copy.path for group in groups for copy in group.others), b"\0" if null else b"\n")
    else:
        _print_duplicates(groups)
        _say_written(written)


def cluster(
    *,
    groups: int | None = None,
    out: Path | None = None,
    as_json: Json = False,
    index: Path | None = None,
    device: str = "auto",
) -> None:
    """Group a library's pictures by theme, each theme named in words.

    Parameters
    ----------
    groups
        How many themes; chosen by the library's size when not given.
    out
        Also write the themes to an HTML page (.html) or a contact sheet each (.png), with their most typical pictures.
    as_json
        Print the themes as JSON, with all paths.
    index
        The library or index folder; else the one that the working folder lies in.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.index.themes import find_themes

    themes = find_themes(_open(index, device), groups)
    written = _save(_themes_gallery(themes), out)
    if as_json:
        print(json.dumps([theme.as_dict() for theme in themes], indent=2, ensure_ascii=False))
        return
    rows = [
        {"pictures": f"{len(theme.paths):,}", "theme": theme.name, "most typical": _shown(theme.paths[0])}
        for theme in themes
    ]
    print_table(f"{len(themes)} themes", rows)
    _say_written(written)


def _open(folder: Path | None, device: str = "auto") -> Index:
    from diptych.index import Index, find_index

    return Index(folder if folder is not None else find_index(), device=device)


def _print_results(results: Results, written: list[Path]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "picture": _shown(hit.path) + (f" (+{len(hit.copies)})" if hit.copies else ""),
            "taken": f"{hit.taken:%Y-%m-%d}" if hit.taken else "",
            "size": f"{hit.width} × {hit.height}" if hit.width else "",
            "caption": (hit.caption or "").split("\n")[0],
            "score": f"{hit.score:.3f}",
        }
        for rank, hit in enumerate(results, results.first_rank)
    ]
    if rows:
        empty = [name for name in rows[0] if not any(row[name] for row in rows)]
        print_table(results.message, [{name: row[name] for name in row if name not in empty} for row in rows])
    else:
        say(results.message)
    if results.more or results.total >= results.first_rank + len(results) > results.first_rank:
        say(f"the next page: --page {results.page + 1}")
    hint = "; --nearest shows the nearest whatever they show" if results.nothing_found else ""
    say(f"({results.cutoff}{hint})")
    _say_written(written)


def _print_duplicates(groups: list[Duplicates]) -> None:
    spare = sum(group.spare_bytes for group in groups)
    rows = [
        {
            "group": number,
            "": "keep" if copy is group.keep else "identical" if copy.identical else "same picture",
            "picture": _shown(copy.path),
            "size": f"{copy.width} × {copy.height}" if copy.width else "",
            "kB": f"{(copy.size or 0) / 1000:,.0f}",
        }
        for number, group in enumerate(groups, 1)
        for copy in (group.keep, *group.others)
    ]
    if not groups:
        say("no picture is there twice")
        return
    others = sum(len(group.others) for group in groups)
    print_table(f"{len(groups):,} pictures are there more than once", rows)
    say(f"{others:,} copies take up {spare / 1e6:,.1f} MB; nothing was deleted. --paths prints them for other programs")


def _duplicates_gallery(groups: list[Duplicates]) -> Gallery:
    from diptych.index.gallery import Card, Gallery, Section

    sections = tuple(
        Section(
            f"Group {number}",
            tuple(
                Card(
                    copy.path,
                    "keep" if copy is group.keep else "identical" if copy.identical else "same picture",
                    _shown(copy.path),
                    f"{copy.width} × {copy.height}, {(copy.size or 0) / 1000:,.0f} kB",
                )
                for copy in (group.keep, *group.others)
            ),
        )
        for number, group in enumerate(groups, 1)
    )
    return Gallery("Duplicates", f"{len(groups):,} pictures are there more than once", sections)


def _themes_gallery(themes: list[Theme]) -> Gallery:
    from diptych.index.gallery import Card, Gallery, Section

    sections = tuple(
        Section(f"{theme.name} ({len(theme.paths):,})", tuple(Card(path, _name(path)) for path in theme.paths[:_CARDS]))
        for theme in themes
    )
    pictures = sum(len(theme.paths) for theme in themes)
    return Gallery("Themes", f"{pictures:,} pictures in {len(themes)} themes, the most typical first", sections)


def _save(gallery: Gallery, out: Path | None) -> list[Path]:
    from diptych.index.gallery import save_gallery

    return save_gallery(gallery, out) if out else []


def _say_written(files: list[Path]) -> None:
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        say(f"pictures: {files[0]}{more}")


def _print_paths(paths: Iterable[str], end: bytes) -> None:
    """The paths byte for byte as the file system has them, whatever the terminal's encoding."""
    from diptych.index.paths import from_text

    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    for path in paths:
        if out is None:
            sys.stdout.write(str(from_text(path)) + end.decode())
        else:
            out.write(os.fsencode(from_text(path)) + end)


def _shown(path: str) -> str:
    """A path for people: relative where it lies below the working folder, undecodable bytes as `?`."""
    from diptych.index.paths import from_text

    whole = from_text(path)
    here = Path.cwd()
    short = whole.relative_to(here) if whole.is_relative_to(here) else whole
    return str(short).encode("utf-8", "replace").decode()


def _name(path: str) -> str:
    return _shown(path).rpartition(os.sep)[2]
