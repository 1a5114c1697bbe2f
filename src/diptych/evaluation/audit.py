"""The audit of a data set: captions that likely do not describe their picture, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.doctor.inspect import Report, sound
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError
from diptych.images.decode import Picture, Slice
from diptych.images.paths import to_text
from diptych.matching.matcher import Matcher
from diptych.reports.gallery import Card, Gallery, Section
from diptych.runtime.atomic import new_text
from diptych.runtime.progress import Progress, silent
from diptych.runtime.quoting import ReportTable

_SLICE = 4096  # pictures whose encodings are in memory at once


@dataclass(frozen=True, slots=True)
class AuditedCaption:
    """A caption of a picture, and the probability that it describes it."""

    image_id: str
    image: Picture
    caption: str
    probability: float


def audit(
    matcher: Matcher,
    pairs: Pairs,
    *,
    prior: float | None = None,
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> tuple[list[AuditedCaption], Report]:
    """Every caption with the probability that it describes its picture, the least likely first; and what was left out.

    `prior` is the share of right captions that is expected; it moves the probabilities, not their order. Do not audit
    with a matcher what it was trained on: it has learnt those captions, wrong ones too.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    judged: list[AuditedCaption] = []
    for start in range(0, len(usable), _SLICE):
        part = usable[start : start + _SLICE]
        captions, owner = part.flat_captions()
        images = matcher.encode_pictures(part, progress=progress)
        texts = matcher.encode_texts(captions)
        probabilities = matcher.probabilities(images, texts, owner, np.arange(len(captions)), prior=prior)
        rows = list(part)
        judged += [
            AuditedCaption(rows[row].image_id, rows[row].image, caption, float(probability))
            for row, caption, probability in zip(owner, captions, probabilities, strict=True)
        ]
    return sorted(judged, key=lambda each: each.probability), left_out


def write_table(judged: Sequence[AuditedCaption], path: str | Path) -> None:
    """Write CSV with the columns image, caption and probability.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with new_text(path) as file:
            table = ReportTable(file)
            table.writerow(("image", "caption", "probability"))
            table.writerows((each.image_id, each.caption, f"{each.probability:.4f}") for each in judged)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def audit_gallery(judged: Sequence[AuditedCaption], worst: int) -> Gallery:
    """The `worst` captions as cards with their pictures, for `index.gallery.save_gallery`."""
    shown = judged[:worst]
    cards = tuple(
        Card(_place(each), f"{100 * each.probability:.1f}% likely", each.caption, each.image_id) for each in shown
    )
    note = f"The {len(shown):,} of {len(judged):,} captions that least likely describe their picture, worst first."
    return Gallery("Captions to look at", note, (Section("", cards),))


def _place(each: AuditedCaption) -> str:
    """The picture's path as the gallery reads it; of one inside a larger file, the file's and its own name there."""
    image = each.image
    if isinstance(image, Slice):
        return f"{to_text(image.path)}/{each.image_id}"
    return to_text(image) if isinstance(image, Path) else each.image_id
