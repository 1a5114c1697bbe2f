"""`diptych data get` and `diptych data make-prompts`: data sets that others published, and one that diptych draws."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from diptych.cli.show import print_table, progress, say


def get(
    name: str | None = None,
    *,
    out: Path | None = None,
    parts: int = 1,
    accept_licence: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fetch a published data set from the Hugging Face hub: resumed after a cut, checked against checksums.

    Without a name, the sets are listed. Before anything is fetched, its size and licence are shown, and you are asked.

    Parameters
    ----------
    name
        flickr8k, flickr30k, coco-captions or diffusiondb.
    out
        Folder for it; one of its name when not given. The same folder goes on where a fetch was cut.
    parts
        Of diffusiondb, how many parts of 1,000 pictures.
    accept_licence
        Agree to its licence without being asked.
    """
    from diptych.data.hub_datasets import PUBLISHED, offer
    from diptych.data.hub_datasets import get as get_published
    from diptych.errors import ConfigError

    if name is None:
        rows = [{"name": key, "what": each.description, "licence": each.licence} for key, each in PUBLISHED.items()]
        print_table("published data sets", rows)
        return
    offered = offer(name, parts=parts)
    say(offered.published.description)
    say(f"licence: {offered.published.licence}")
    say(f"         {offered.published.terms}")
    files = "1 file" if len(offered.files) == 1 else f"{len(offered.files)} files"
    say(f"{files}, {offered.size / 1e6:,.1f} MB, from {offered.published.repository}")
    if not accept_licence:
        if not sys.stdin.isatty():
            raise ConfigError("nobody is there to agree to the licence; if you do, run it again with --accept-licence")
        if input("Do you agree to this licence? [yes/no] ").strip().lower() not in ("y", "yes"):
            raise ConfigError("the licence was not agreed to; nothing was fetched")
    folder = get_published(offered, out or Path(name), progress=progress)
    say(f"{folder}: `diptych data inspect {folder}` looks at it")


def make_prompts(out: Path, *, count: int = 400, size: int = 128, seed: int = 0) -> None:
    """Draw a small set of pictures with the prompts that made them: images/ and prompts.csv.

    Parameters
    ----------
    out
        Folder for them.
    count
        Pictures to draw.
    size
        Side of each picture in pixels.
    seed
        Another seed draws other pictures.
    """
    from diptych.data.samples.prompts import draw_prompts

    draw_prompts(out, count=count, size=size, seed=seed, progress=progress)
    say(f"{count} pictures with a prompt each: {out}")
