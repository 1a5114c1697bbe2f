"""`diptych dedupe` and `diptych cluster`: pictures that are the same, and pictures that are alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diptych.cli.ask import Flag, Json, open_index, save_if_asked, say_written, shown
from diptych.cli.show import print_json, print_paths, print_table, say

if TYPE_CHECKING:
    from diptych.reports.gallery import Gallery
    from diptych.search.clusters import Theme
    from diptych.search.dedupe import Copy, Duplicates

_CARDS = 24  # pictures of each theme in a gallery


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
        Print the paths of the others alone, never of the one to keep. A path with a line break is left out, with a
        warning; --null prints it too.
    null
        The same, each ended with a NUL byte: for `xargs -0`.
    index
        The library or index folder; else the one that the working folder lies in.
    """
    from diptych.search.dedupe import find_duplicates

    library = open_index(index)
    groups = find_duplicates(library)
    written = save_if_asked(_duplicates_gallery(groups), out, library)
    if as_json:
        print_json([group.to_dict() for group in groups])
    elif paths or null:
        print_paths((copy.path for group in groups for copy in group.others), b"\0" if null else b"\n")
    else:
        _print_duplicates(groups)
        say_written(written)


def cluster(
    *,
    groups: int | None = None,
    out: Path | None = None,
    as_json: Json = False,
    index: Path | None = None,
    model: str | None = None,
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
    model
        The model that made the index, by another name or place; also lets an index of somebody else load its model.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.search.clusters import find_themes

    library = open_index(index, device, model)
    themes = find_themes(library, groups)
    written = save_if_asked(_themes_gallery(themes), out, library)
    if as_json:
        print_json([theme.to_dict() for theme in themes])
        return
    rows = [
        {"pictures": f"{len(theme.paths):,}", "theme": theme.name, "most typical": shown(theme.paths[0])}
        for theme in themes
    ]
    print_table(f"{len(themes)} themes", rows)
    say_written(written)


def _print_duplicates(groups: list[Duplicates]) -> None:
    spare = sum(group.spare_bytes for group in groups)
    rows = [
        {
            "group": number,
            "": _verdict(copy, group),
            "picture": shown(copy.path),
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
    from diptych.reports.gallery import Card, Gallery, Section

    sections = tuple(
        Section(
            f"Group {number}",
            tuple(
                Card(
                    copy.path,
                    _verdict(copy, group),
                    shown(copy.path),
                    f"{copy.width} × {copy.height}, {(copy.size or 0) / 1000:,.0f} kB",
                )
                for copy in (group.keep, *group.others)
            ),
        )
        for number, group in enumerate(groups, 1)
    )
    return Gallery("Duplicates", f"{len(groups):,} pictures are there more than once", sections)


def _themes_gallery(themes: list[Theme]) -> Gallery:
    from diptych.reports.gallery import Card, Gallery, Section

    sections = tuple(
        Section(f"{theme.name} ({len(theme.paths):,})", tuple(Card(path, _name(path)) for path in theme.paths[:_CARDS]))
        for theme in themes
    )
    pictures = sum(len(theme.paths) for theme in themes)
    return Gallery("Themes", f"{pictures:,} pictures in {len(themes)} themes, the most typical first", sections)


def _verdict(copy: Copy, group: Duplicates) -> str:
    return "keep" if copy is group.keep else "identical" if copy.identical else "same picture"


def _name(path: str) -> str:
    return shown(path).rpartition(os.sep)[2]
