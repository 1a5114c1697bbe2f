"""Caption audit: the captions of a data set ranked by the probability that they describe their image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.doctor.inspect import Report, usable_pairs
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError
from diptych.images.decode import ImageSource, Slice
from diptych.images.paths import to_text
from diptych.matching.matcher import Matcher
from diptych.reports.gallery import Card, Gallery, Section
from diptych.runtime.atomic import new_text
from diptych.runtime.progress import Progress, silent
from diptych.runtime.quoting import ReportTable

_SLICE = 4096  # images whose encodings are in memory at once


@dataclass(frozen=True, slots=True)
class AuditedCaption:
    """A caption of an image and the probability, 0 to 1, that it describes it."""

    image_id: str
    image: ImageSource
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
    """Rank all captions of a data set by the probability that they describe their image, lowest first.

    Do not audit the data that the matcher was trained on: it has learned those captions, the wrong ones included.

    Args:
        matcher: a calibrated matcher.
        pairs: images with captions; images that cannot be used are left out.
        prior: expected fraction of correct captions; it changes the probabilities, not their order.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The captions, least probable first, and the images that were left out with reasons.

    Raises:
        DataError: no image is left, or more than `max_bad_share` cannot be used.
    """
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    audited: list[AuditedCaption] = []
    for start in range(0, len(usable), _SLICE):
        part = usable[start : start + _SLICE]
        captions, owner = part.flat_captions()
        images = matcher.encode_dataset(part, progress=progress)
        texts = matcher.encode_texts(captions)
        probabilities = matcher.probabilities(images, texts, owner, np.arange(len(captions)), prior=prior)
        rows = list(part)
        audited += [
            AuditedCaption(rows[row].image_id, rows[row].image, caption, float(probability))
            for row, caption, probability in zip(owner, captions, probabilities, strict=True)
        ]
    return sorted(audited, key=lambda caption: caption.probability), left_out


def write_table(audited: Sequence[AuditedCaption], path: str | Path) -> None:
    """Write CSV with the columns image, caption and probability.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with new_text(path) as file:
            table = ReportTable(file)
            table.writerow(("image", "caption", "probability"))
            table.writerows((row.image_id, row.caption, f"{row.probability:.4f}") for row in audited)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def audit_gallery(audited: Sequence[AuditedCaption], worst: int) -> Gallery:
    """The first `worst` captions as cards with their images, for `reports.gallery.save_gallery`."""
    shown = audited[:worst]
    cards = tuple(Card(_place(row), f"{100 * row.probability:.1f}% likely", row.caption, row.image_id) for row in shown)
    note = (
        f"The {len(shown):,} of {len(audited):,} captions with the lowest probability of describing their image, "
        "lowest first."
    )
    return Gallery("Captions to review", note, (Section("", cards),))


def _place(audited: AuditedCaption) -> str:
    """The image's path for the gallery; for an image inside a larger file, the path of that file and the id."""
    image = audited.image
    if isinstance(image, Slice):
        return f"{to_text(image.path)}/{audited.image_id}"
    return to_text(image) if isinstance(image, Path) else audited.image_id
