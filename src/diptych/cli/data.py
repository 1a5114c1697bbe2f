"""`diptych data`: look at data sets, and draw one to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from diptych.cli.show import (
    PictureFile,
    print_json,
    print_report,
    print_table,
    progress,
    say,
    say_left_out,
    write_picture,
)

app = App(name="data")
app.command("diptych.cli.prompt_data:get", name="get")
app.command("diptych.cli.prompt_data:make_prompts", name="make-prompts")


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
    from diptych.data.doctor import inspect as doctor
    from diptych.data.formats.read import detect, read_pairs

    pairs = read_pairs(path, format)
    source = detect(path, format)
    texts = [file for file in source.paths if file.suffix in (".txt", ".csv", ".tsv", ".json", ".jsonl")]
    report = doctor.inspect(pairs, folder=source.folder, caption_files=texts, progress=progress)
    if sheet:
        write_picture(doctor.contact_sheet(pairs), sheet)
    if as_json:
        print_json(report.as_dict())
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
    from diptych.data.samples.library import draw_scenes

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
    from diptych.data.samples.library import photographs

    say(f"{len(photographs(out))} photographs with a query each: {out}")


@app.command
def audit(
    path: str,
    *,
    model: str = "mini",
    head: str | None = None,
    split: str = "all",
    worst: int = 100,
    page: Path | None = None,
    table: Path | None = None,
    format: str | None = None,
    device: str = "auto",
) -> None:
    """Find captions that likely do not describe their picture, worst first.

    Parameters
    ----------
    path
        A folder, a caption file, tar shards or a hub name.
    model
        A matcher (`diptych train match`) that was not trained on these captions, or mini.
    head
        pair, cross or cosine; the best that the model has when not given.
    split
        Split to look at: train, val, test or all.
    worst
        How many captions to show, and to put on the page.
    page
        Write these with their pictures to an HTML page (.html) or a contact sheet (.png).
    table
        Write every caption with its probability to this CSV file.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.data.formats.read import read_pairs
    from diptych.evaluation.audit import audit, audit_gallery, write_table
    from diptych.matching.matcher import load_matcher
    from diptych.reports.gallery import save_gallery

    pairs = read_pairs(path, format).split(split)
    judged, left_out = audit(load_matcher(model, head, device), pairs, progress=progress)
    say_left_out(left_out)
    rows = [
        {"P(match)": f"{each.probability:.3f}", "picture": each.image_id, "caption": each.caption}
        for each in judged[:worst]
    ]
    print_table(f"the least likely of {len(judged):,} captions", rows)
    if table:
        write_table(judged, table)
        say(f"all of them: {table}")
    if page:
        for file in save_gallery(audit_gallery(judged, worst), page):
            say(f"with their pictures: {file}")
