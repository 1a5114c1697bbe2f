"""`diptych cluster`: group the images of an index by theme."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diptych.cli.options import COMMON, Common, Index, IndexModel, OptionalCount, PageOutput
from diptych.cli.search import open_index, save_index_gallery
from diptych.cli.show import note, note_files, print_json, print_table, relative_path, set_quiet

if TYPE_CHECKING:
    from diptych.reports.gallery import Gallery
    from diptych.search.clusters import Theme

_SHOWN_PER_THEME = 24


def cluster(
    *,
    groups: OptionalCount = None,
    output: PageOutput = None,
    index: Index = None,
    model: IndexModel = None,
    common: Common = COMMON,
) -> None:
    """Group the images of an index by theme. Each theme has a name in words.

    Parameters
    ----------
    groups
        Number of themes. Default: depends on the number of images.
    output
        Also write the most typical images of each theme to an HTML page (.html) or contact sheets (.png).
    """
    from diptych.errors import DataError
    from diptych.search.clusters import find_themes

    set_quiet(common.quiet, common.as_json)
    opened = open_index(index, common.device, model)
    themes = find_themes(opened, groups)
    written = save_index_gallery(_gallery(themes), output, opened)
    if not themes and not common.as_json:
        raise DataError("the index is empty; add images with `diptych index FOLDER`")
    if groups is not None and len(themes) < groups:
        note(f"{len(themes)} themes instead of {groups}: the other groups would be empty")
    if common.as_json:
        print_json([theme.to_dict() for theme in themes])
        return
    rows = [
        {"images": f"{len(theme.paths):,}", "theme": theme.name, "most typical": relative_path(theme.paths[0])}
        for theme in themes
    ]
    print_table(f"{len(themes)} themes", rows)
    note_files(written)


def _gallery(themes: Sequence[Theme]) -> Gallery:
    from diptych.reports.gallery import Card, Gallery, Section

    sections = tuple(
        Section(
            f"{theme.name} ({len(theme.paths):,})",
            tuple(Card(path, _name(path)) for path in theme.paths[:_SHOWN_PER_THEME]),
        )
        for theme in themes
    )
    images = sum(len(theme.paths) for theme in themes)
    return Gallery("Themes", f"{images:,} images in {len(themes)} themes, most typical first", sections)


def _name(path: str) -> str:
    return relative_path(path).rpartition(os.sep)[2]
