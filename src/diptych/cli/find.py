"""`diptych find`: find the images of a data set that match a text."""

from __future__ import annotations

from diptych.cli.options import COMMON, Common, Format, K, Model, OptionalImageOutput, Split
from diptych.cli.show import note_files, print_json, print_table, progress, set_quiet, write_image


def find(
    model: Model,
    text: str,
    *,
    data: str,
    k: K = 9,
    split: Split = "all",
    format: Format = None,
    output: OptionalImageOutput = None,
    common: Common = COMMON,
) -> None:
    """Find the images of a data set that match a text, without an index.

    All images of the split are embedded first. To search the same images repeatedly, index them (`diptych index`).

    Parameters
    ----------
    text
        What the images should show.
    data
        Data set to search.
    k
        Number of images to find.
    output
        Also draw the images in a grid: an image file (.png, .jpg, .webp).
    """
    from diptych.data.formats.read import read_pairs
    from diptych.errors import DataError

    set_quiet(common.quiet, common.as_json)
    if not text.strip():
        raise DataError("the text is empty; describe what the images should show")
    pairs = read_pairs(data, format).with_val().split(split)
    from diptych.models.dual_encoder import load
    from diptych.search.find_matches import find_matches, match_grid

    matches = find_matches(load(model, common.device), text, pairs, k, progress=progress)
    if output:
        write_image(match_grid(matches, text), output)
    if common.as_json:
        print_json([{"image_id": m.image_id, "score": m.score, "captions": list(m.captions)} for m in matches])
        return
    rows = [
        {"rank": rank, "score": f"{m.score:.3f}", "image": m.image_id, "first caption": (m.captions or ("",))[0]}
        for rank, m in enumerate(matches, 1)
    ]
    print_table(f"“{text}” among {len(pairs):,} images", rows)
    note_files([output] if output else [])
