"""Data set inspection: a report of all faults, the usable subset for training, and a contact sheet."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from diptych.data.doctor.checks import check_images
from diptych.data.doctor.findings import (
    broken_images,
    caption_faults,
    copies,
    merged,
    missing_captions,
    uncaptioned_files,
    usable_rows,
    wrong_lines,
)
from diptych.data.doctor.report import KINDS, Finding, Report, Spread, describe_pairs
from diptych.data.pairs import Pairs, Row
from diptych.data.reading_notes import Example
from diptych.errors import DataError, ImageError, NextStep
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import MAX_PIXELS, decode, thumbnail
from diptych.images.near_duplicates import DISTANCE
from diptych.runtime.progress import Progress, silent

__all__ = ["KINDS", "Example", "Finding", "Report", "Spread", "contact_sheet", "inspect", "usable_pairs"]

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
    """Inspect a data set: broken images, faulty captions, duplicates, and leaks across splits.

    `folder` is searched for image files without a caption, and `caption_files` for lines that are not UTF-8. Images
    whose perceptual hashes differ in at most `distance` bits are near-identical. The report keeps the first `examples`
    examples of each kind of finding.
    """
    checks = check_images(pairs, max_pixels=max_pixels, progress=progress)
    by_kind = merged(
        broken_images(pairs, checks),
        caption_faults(pairs),
        copies(pairs, checks, distance),
        wrong_lines(caption_files),
        uncaptioned_files(pairs, folder) if folder is not None else {},
    )
    return describe_pairs(pairs, usable_rows(pairs, checks), by_kind, examples)


def usable_pairs(
    pairs: Pairs,
    *,
    max_bad_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    examples: int = _EXAMPLES,
    progress: Progress = silent,
) -> tuple[Pairs, Report]:
    """The usable subset of a data set: images that decode, with their non-empty captions.

    The report counts what was dropped, by reason; its statistics describe the original data set.

    Raises:
        DataError: no image is usable, or more than a fraction `max_bad_share` of the images is unusable.
    """
    checks = check_images(pairs, max_pixels=max_pixels, progress=progress)
    by_kind = merged(broken_images(pairs, checks), missing_captions(pairs))
    usable = usable_rows(pairs, checks)
    report = describe_pairs(pairs, usable, by_kind, examples)
    if report.bad_images > max_bad_share * len(pairs) or not any(usable):
        raise _too_many_bad(report, max_bad_share)
    return _without_empty_captions(pairs).where(usable), report


def _without_empty_captions(pairs: Pairs) -> Pairs:
    column = pairs.table.column("captions").combine_chunks()
    if pc.all(pc.not_equal(pc.utf8_trim_whitespace(column.flatten()), "")).as_py():
        return pairs
    captions = [[caption for caption in row if caption.strip()] for row in column.to_pylist()]
    index = pairs.table.schema.get_field_index("captions")
    field = pairs.table.schema.field(index)
    return Pairs(pairs.table.set_column(index, field, pa.array(captions, field.type)))


def _too_many_bad(report: Report, max_bad_share: float) -> DataError:
    files = [example.file for finding in report.findings for example in finding.examples]
    examples = f", for example {', '.join(files[:3])}" if files else ""
    bad = f"{report.bad_images:,} of {report.images:,} images cannot be used"
    go_on = NextStep(f"or go on without them: the limit is a share of {max_bad_share:g}", "max_bad_share")
    return DataError(
        f"{bad} ({report.summary()}){examples}; `diptych data inspect PATH` lists them: fix or remove them",
        steps=[go_on] if report.bad_images < report.images else [],
    )


def contact_sheet(pairs: Pairs, n: int = 24, seed: int = 0, *, title: str = "", tile_size: int = 200) -> Image.Image:
    """A grid of `n` images with one caption each, sampled by a hash of `seed` and id.

    Images that cannot be decoded are shown as grey tiles.
    """
    chosen = heapq.nsmallest(n, enumerate(pairs.image_ids), key=lambda item: _sampling_key(seed, item[1]))
    tiles = [_tile(pairs[index], tile_size) for index, _ in chosen]
    return image_grid(tiles, title=title or f"{len(tiles)} of {len(pairs):,} images", tile_size=tile_size)


def _sampling_key(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id}".encode("utf-8", "surrogatepass")).digest()


def _tile(row: Row, tile_size: int) -> Tile:
    text = next((caption for caption in row.captions if caption.strip()), "(no caption)")
    try:
        image = thumbnail(decode(row.image, min_side=tile_size), tile_size)
    except ImageError as error:
        return Tile(None, text, row.image_id, missing=error.reason.replace("_", " "))
    return Tile(image, text, row.image_id)
