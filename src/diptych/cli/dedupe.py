"""`diptych dedupe`: find duplicate images in an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diptych.cli.options import Flag, Index, Json, Null, PageOutput, Quiet
from diptych.cli.search import open_index, save_index_gallery
from diptych.cli.show import echo, note, note_files, print_json, print_paths, print_table, relative_path, set_quiet

if TYPE_CHECKING:
    from diptych.reports.gallery import Gallery
    from diptych.search.dedupe import Copy, Duplicates


def dedupe(
    *,
    output: PageOutput = None,
    as_json: Json = False,
    paths: Flag = False,
    null: Null = False,
    index: Index = None,
    quiet: Quiet = False,
) -> None:
    """Find duplicate images in an index.

    Duplicates are copies of an image, resized or recompressed ones included. In each group, one image is marked to
    keep: the one with the most pixels, then the most bytes, then the oldest. Nothing is deleted.

    Parameters
    ----------
    output
        Also write the groups to an HTML page (.html) or contact sheets (.png).
    paths
        Print only the paths of the redundant copies, one per line, for other programs. Paths that contain a line break
        are left out with a warning; --null prints them too.
    null
        Like --paths, but end each path with a NUL byte, for `xargs -0`.
    """
    from diptych.search.dedupe import find_duplicates

    set_quiet(quiet, as_json)
    opened = open_index(index)
    groups = find_duplicates(opened)
    written = save_index_gallery(_gallery(groups), output, opened)
    if as_json:
        print_json([group.to_dict() for group in groups])
    elif paths or null:
        print_paths((copy.path for group in groups for copy in group.others), b"\0" if null else b"\n")
    else:
        _print_groups(groups)
        note_files(written)


def _print_groups(groups: Sequence[Duplicates]) -> None:
    if not groups:
        echo("no duplicates found")
        return
    rows = [
        {
            "group": number,
            "": _verdict(copy, group),
            "image": relative_path(copy.path),
            "size": f"{copy.width} × {copy.height}" if copy.width else "",
            "kB": f"{(copy.size or 0) / 1000:,.0f}",
        }
        for number, group in enumerate(groups, 1)
        for copy in (group.keep, *group.others)
    ]
    copies = sum(len(group.others) for group in groups)
    megabytes = sum(group.spare_bytes for group in groups) / 1e6
    print_table(f"{len(groups):,} images have duplicates", rows)
    note(f"{copies:,} redundant copies use {megabytes:,.1f} MB; nothing was deleted. --paths lists them")


def _gallery(groups: Sequence[Duplicates]) -> Gallery:
    from diptych.reports.gallery import Card, Gallery, Section

    sections = tuple(
        Section(
            f"Group {number}",
            tuple(
                Card(
                    copy.path,
                    _verdict(copy, group),
                    relative_path(copy.path),
                    f"{copy.width} × {copy.height}, {(copy.size or 0) / 1000:,.0f} kB",
                )
                for copy in (group.keep, *group.others)
            ),
        )
        for number, group in enumerate(groups, 1)
    )
    return Gallery("Duplicates", f"{len(groups):,} images have duplicates", sections)


def _verdict(copy: Copy, group: Duplicates) -> str:
    return "keep" if copy is group.keep else "identical" if copy.identical else "same image"
