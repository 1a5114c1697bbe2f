"""`diptych find`: the pictures of a data set that match a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.show import PictureFile, print_json, print_table, progress, say, write_picture


def find(
    model: str,
    text: str,
    *,
    data: str,
    k: Annotated[int, Parameter(("--k", "-k"))] = 9,
    split: str = "all",
    format: str | None = None,
    grid: PictureFile | None = Path("matches.png"),
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Find the pictures of a data set that match a text, as a table and as a grid of pictures.

    Parameters
    ----------
    model
        A training run, a model directory, or a hub name.
    text
        What the pictures should show.
    data
        Data set to search in.
    k
        Pictures to find.
    split
        Split to search in, or all.
    format
        The data set's format; recognised by itself when not given.
    grid
        Picture file (png, jpg, webp) to draw them on.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the matches as JSON.
    """
    from diptych.data.formats.read import read_pairs
    from diptych.models.dual_encoder import load
    from diptych.search.find_matches import find_matches, match_grid

    pairs = read_pairs(data, format).with_val().split(split)
    matches = find_matches(load(model, device), text, pairs, k, progress=progress)
    if grid:
        write_picture(match_grid(matches, text), grid)
    if as_json:
        rows = [{"image_id": m.image_id, "score": m.score, "captions": list(m.captions)} for m in matches]
        print_json(rows)
        return
    rows = [
        {"rank": rank, "score": f"{m.score:.3f}", "picture": m.image_id, "first caption": (m.captions or ("",))[0]}
        for rank, m in enumerate(matches, 1)
    ]
    print_table(f"“{text}” among {len(pairs):,} pictures", rows)
    if grid:
        say(f"pictures: {grid}")
