"""What is wrong with a data set, and where: a report for people, and the sound part of it for training."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from diptych.data.doctor.checks import check_pictures
from diptych.data.doctor.findings import (
    broken_pictures,
    caption_faults,
    copies,
    merged,
    missing_captions,
    uncaptioned_files,
    usable_rows,
    wrong_lines,
)
from diptych.data.doctor.report import KINDS, Example, Finding, Report, Spread, describe_pairs
from diptych.data.pairs import Pairs, Row
from diptych.errors import DataError, ImageError
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import MAX_PIXELS, decode, thumbnail
from diptych.images.near_duplicates import DISTANCE
from diptych.runtime.progress import Progress, silent

__all__ = ["KINDS", "Example", "Finding", "Report", "Spread", "contact_sheet", "inspect", "sound"]

_EXAMPLES = 10


def inspect(
    pairs: Pairs,
    *,
    folder: str | Path | None = None,
    caption_files: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
    distance: int = DISTANCE,
    examples: int = _EXAMPLES,
    progress: Progress = silent,
) -> Report:
    """Examine a data set in one pass over its pictures: broken ones, faulty captions, copies and leaks across splits.

    Picture files that no caption names are looked for in `folder`; lines that are not UTF-8, in `caption_files`.
    Pictures whose perceptual hashes differ in at most `distance` bits are near-identical. Of each kind of finding the
    first `examples` are reported.
    """
    checks = check_pictures(pairs, max_pixels=max_pixels, progress=progress)
    found = merged(
        broken_pictures(pairs, checks),
        caption_faults(pairs),
        copies(pairs, checks, distance),
        wrong_lines(caption_files),
        uncaptioned_files(pairs, folder) if folder is not None else {},
    )
    return describe_pairs(pairs, usable_rows(pairs, checks), found, examples)


def sound(
    pairs: Pairs,
    *,
    max_bad_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    examples: int = _EXAMPLES,
    progress: Progress = silent,
) -> tuple[Pairs, Report]:
    """The part of a data set that can be trained on: pictures that decode, with captions that are not empty.

    The report counts what was left out, by reason; its figures are those of the data set as it was given.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    checks = check_pictures(pairs, max_pixels=max_pixels, progress=progress)
    found = merged(broken_pictures(pairs, checks), missing_captions(pairs))
    usable = usable_rows(pairs, checks)
    report = describe_pairs(pairs, usable, found, examples)
    if report.bad_pictures > max_bad_share * len(pairs) or not any(usable):
        raise DataError(_refusal(report, max_bad_share))
    return _without_empty_captions(pairs).where(usable), report


def _without_empty_captions(pairs: Pairs) -> Pairs:
    column = pairs.table.column("captions").combine_chunks()
    if pc.all(pc.not_equal(pc.utf8_trim_whitespace(column.flatten()), "")).as_py():
        return pairs
    captions = [[caption for caption in row if caption.strip()] for row in column.to_pylist()]
    at = pairs.table.schema.get_field_index("captions")
    field = pairs.table.schema.field(at)
    return Pairs(pairs.table.set_column(at, field, pa.array(captions, field.type)))


def _refusal(report: Report, max_bad_share: float) -> str:
    files = [example.file for finding in report.findings for example in finding.examples]
    among = f"; among them {', '.join(files[:3])}" if files else ""
    step = "run `diptych data inspect PATH` to see them all"
    if report.bad_pictures < report.pictures:
        step += f", mend or remove them, or raise max_bad_share (now {max_bad_share:g})"
    bad = f"{report.bad_pictures:,} of {report.pictures:,} pictures cannot be used"
    return f"{bad} ({report.summary()}){among}; {step}"


def contact_sheet(pairs: Pairs, n: int = 24, seed: int = 0, *, title: str = "", tile_size: int = 200) -> Image.Image:
    """A grid of `n` pictures, chosen by a hash of `seed` and id, with a caption each; broken ones are grey fields."""
    chosen = heapq.nsmallest(n, enumerate(pairs.image_ids), key=lambda item: _draw(seed, item[1]))
    tiles = [_tile(pairs[index], tile_size) for index, _ in chosen]
    return image_grid(tiles, title=title or f"{len(tiles)} of {len(pairs):,} pictures", tile_size=tile_size)


def _draw(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode("utf-8", "surrogatepass")).digest()


def _tile(row: Row, tile_size: int) -> Tile:
    text = next((caption for caption in row.captions if caption.strip()), "(no caption)")
    try:
        picture = thumbnail(decode(row.image, min_side=tile_size), tile_size)
    except ImageError as error:
        return Tile(None, text, row.image_id, missing=error.reason.replace("_", " "))
    return Tile(picture, text, row.image_id)
