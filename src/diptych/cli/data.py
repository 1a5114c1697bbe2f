"""`diptych data`: look at data sets, and draw one to try things on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.show import PictureFile, print_report, progress, say, write_picture

app = App(name="data")


@app.command
def inspect(
    path: str,
    *,
    format: str | None = None,
    sheet: PictureFile | None = None,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Check a data set: broken pictures, empty captions, duplicates across splits, and more.

    Parameters
    ----------
    path
        A folder, a caption file, tar shards or a hub name.
    format
        The data set's format; recognised by itself when not given.
    sheet
        Draw a contact sheet of some pictures with their captions on this picture file (png, jpg, webp).
    as_json
        Print the report as JSON.
    """
    from diptych import doctor
    from diptych.formats import detect, read_pairs

    pairs = read_pairs(path, format)
    source = detect(path, format)
    texts = [file for file in source.paths if file.suffix in (".txt", ".csv", ".tsv", ".json", ".jsonl")]
    report = doctor.inspect(pairs, folder=source.folder, caption_files=texts, progress=progress)
    if sheet:
        write_picture(doctor.contact_sheet(pairs), sheet)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    print_report(report)
    if sheet:
        say(f"contact sheet: {sheet}")


@app.command
def draw(out: Path, *, count: int = 600, size: int = 128, seed: int = 0) -> None:
    """Draw a captioned set of coloured scenes, to try everything without data of your own.

    Parameters
    ----------
    out
        Folder for the pictures and `captions.txt`.
    count
        Pictures to draw.
    size
        Side of each picture in pixels.
    seed
        Another seed draws other scenes.
    """
    from diptych.samples import draw_scenes

    draw_scenes(out, count=count, size=size, seed=seed)
    say(f"{count} pictures with 5 captions each: {out}")


@app.command
def photographs(out: Path) -> None:
    """Write the sample library: 15 photographs, each with what somebody would type to find it.

    Parameters
    ----------
    out
        Folder for `images/`, the queries in `captions.txt`, and the photographs' terms in `LICENCES.md`.
    """
    from diptych.samples import photographs

    say(f"{len(photographs(out))} photographs with a query each: {out}")
