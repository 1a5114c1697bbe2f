"""`diptych data`: inspect, download, draw and audit data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from diptych.cli.options import (
    COMMON,
    Common,
    Count,
    Flag,
    Format,
    Head,
    Json,
    K,
    Matcher,
    OptionalImageFile,
    OptionalOutput,
    Output,
    PageOutput,
    Quiet,
    Split,
    TableFile,
)
from diptych.cli.show import (
    confirm,
    echo,
    note,
    note_files,
    note_left_out,
    print_json,
    print_report,
    print_table,
    progress,
    set_quiet,
    write_image,
)

if TYPE_CHECKING:
    from diptych.evaluation.audit import AuditedCaption

app = App(name="data")

Drawn = Annotated[int, Parameter(validator=validators.Number(gte=1), help="Number of images to draw.")]
Size = Annotated[int, Parameter(help="Width and height of each image in pixels.")]
Seed = Annotated[int, Parameter(help="Random seed. Another seed draws other images.")]


@app.command
def inspect(
    path: str, *, format: Format = None, sheet: OptionalImageFile = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Check a data set for broken images, empty captions, duplicates across splits and other problems.

    Parameters
    ----------
    path
        A folder, a caption file, tar shards or a hub name.
    sheet
        Also draw a contact sheet of some images with their captions: an image file (.png, .jpg, .webp).
    """
    from diptych.data.doctor import inspect as doctor
    from diptych.data.formats.read import detect, read_pairs

    set_quiet(quiet, as_json)
    pairs = read_pairs(path, format)
    source = detect(path, format)
    report = doctor.inspect(pairs, folder=source.image_folder, caption_files=source.paths, progress=progress)
    if sheet:
        write_image(doctor.contact_sheet(pairs), sheet)
    if as_json:
        print_json(report.as_dict())
        return
    print_report(report)
    note_files([sheet] if sheet else [])


@app.command
def get(
    name: str | None = None,
    *,
    output: OptionalOutput = None,
    parts: Count = 1,
    accept_licence: Flag = False,
    quiet: Quiet = False,
) -> None:
    """Download a published data set from the Hugging Face Hub.

    Interrupted downloads resume, and files are verified by checksum. Without a name, the available data sets are
    listed. The size and licence are shown first, and the download starts after you agree.

    Parameters
    ----------
    name
        Data set: flickr8k, flickr30k, coco-captions or diffusiondb.
    output
        Folder for the data set. Default: a folder with its name. Use the same folder to resume a download.
    parts
        For diffusiondb, the number of parts to download, of 1,000 images each.
    accept_licence
        Accept the licence without being asked.
    """
    from diptych.data.hub_datasets import get as get_published
    from diptych.data.hub_datasets import offer
    from diptych.errors import ConfigError

    set_quiet(quiet)
    if name is None:
        _print_published()
        return
    offered = offer(name, parts=parts)
    echo(offered.published.description)
    echo(f"licence: {offered.published.licence}")
    echo(f"         {offered.published.terms}")
    files = "1 file" if len(offered.files) == 1 else f"{len(offered.files)} files"
    echo(f"{files}, {offered.size / 1e6:,.1f} MB, from {offered.published.repository}")
    if not accept_licence:
        if not sys.stdin.isatty():
            raise ConfigError(
                "there is no terminal here to ask for your agreement to the licence; if you agree, run "
                f"`diptych data get {name} --accept-licence`"
            )
        if not confirm("Do you agree to this licence?"):
            raise ConfigError("you did not agree to the licence; nothing was downloaded")
    folder = get_published(offered, output or Path(name), progress=progress)
    note(f"{folder}: check it with `diptych data inspect {folder}`")


def _print_published() -> None:
    from diptych.data.hub_datasets import PUBLISHED

    rows = [
        {"name": name, "description": dataset.description, "licence": dataset.licence}
        for name, dataset in PUBLISHED.items()
    ]
    print_table("published data sets", rows)


@app.command
def draw(output: Output, *, count: Drawn = 600, size: Size = 128, seed: Seed = 0, quiet: Quiet = False) -> None:
    """Draw a captioned data set of coloured shapes, to try diptych without data of your own.

    Parameters
    ----------
    output
        Folder for the images and `captions.txt`.
    """
    from diptych.data.samples.library import draw_scenes

    set_quiet(quiet)
    draw_scenes(output, count=count, size=size, seed=seed)
    echo(f"{count} images with 5 captions each: {output}")


@app.command
def make_prompts(output: Output, *, count: Drawn = 400, size: Size = 128, seed: Seed = 0, quiet: Quiet = False) -> None:
    """Draw a small data set of images with the prompts that describe them, to try prompters.

    Parameters
    ----------
    output
        Folder for `images/` and `prompts.csv`.
    """
    from diptych.data.samples.prompts import draw_prompts

    set_quiet(quiet)
    draw_prompts(output, count=count, size=size, seed=seed, progress=progress)
    echo(f"{count} images with a prompt each: {output}")


@app.command
def photographs(output: Output, *, quiet: Quiet = False) -> None:
    """Write the sample library: 15 photographs with one search query each.

    Parameters
    ----------
    output
        Folder for `images/`, the queries in `captions.txt` and the licences in `LICENCES.md`.
    """
    from diptych.data.samples.library import photographs

    set_quiet(quiet)
    echo(f"{len(photographs(output))} photographs with a query each: {output}")


@app.command
def audit(
    path: str,
    *,
    model: Matcher = "mini",
    head: Head = None,
    split: Split = "all",
    k: K = 100,
    output: PageOutput = None,
    table: TableFile = None,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Find captions that probably do not describe their image, least likely match first.

    Use a matcher that was not trained on these captions.

    Parameters
    ----------
    path
        A folder, a caption file, tar shards or a hub name.
    k
        Number of captions to print, and to write with --output.
    output
        Also write these captions with their images to an HTML page (.html) or a contact sheet (.png).
    table
        Write every caption with its probability to this CSV file.
    """
    from diptych.data.formats.read import read_pairs

    set_quiet(common.quiet, common.as_json)
    pairs = read_pairs(path, format).split(split)
    from diptych.evaluation.audit import audit, audit_gallery, write_table
    from diptych.matching.matcher import load_matcher
    from diptych.reports.gallery import save_gallery

    audited, left_out = audit(load_matcher(model, head, common.device), pairs, progress=progress)
    note_left_out(left_out)
    rows = [
        {"P(match)": f"{row.probability:.3f}", "image": row.image_id, "caption": row.caption} for row in audited[:k]
    ]
    files = save_gallery(audit_gallery(audited, k), output) if output else []
    if table:
        write_table(audited, table)
        files.append(table)
    if common.as_json:
        print_json([_as_dict(row) for row in audited[:k]])
        return
    print_table(f"least likely of {len(audited):,} captions", rows)
    for file in files:
        note_files([file])


def _as_dict(audited: AuditedCaption) -> dict[str, str | float]:
    return {"image": audited.image_id, "caption": audited.caption, "probability": audited.probability}
