"""What a captioner trains on: the patch states of frozen pictures, as they are and mirrored, and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import ImageOps

from diptych.augment import names_a_side, sides_key
from diptych.batches import view
from diptych.cache import cache_dir
from diptych.dual import DualEncoder
from diptych.pairs import Pairs
from diptych.progress import Progress
from diptych.recipes.match_data import widths
from diptych.states import States, StoredStates


@dataclass
class Part:
    """The training or the validation part: pictures with their captions, and what the image tower made of them."""

    pairs: Pairs
    pictures: list[StoredStates]  # one for each view; the first is the picture as it is

    def images(self, rows: np.ndarray, view: int = 0) -> States:
        return self.pictures[view % len(self.pictures)].take(rows)


def store_part(encoder: DualEncoder, pairs: Pairs, *, mirror: bool, progress: Progress) -> Part:
    """Encode the pictures of a part, or find them encoded by an earlier run, a matcher's too.

    With `mirror` each picture has a second view, mirrored, unless a caption of it speaks of left or right.
    """
    folder = cache_dir() / "states" / f"{encoder.identity()}-states" / pairs.fingerprint()
    length, width = widths(encoder)["image"]
    pictures = []
    for mirrored in (False, True) if mirror else (False,):
        # Other captions of the same pictures may speak of sides where these do not.
        kind = f"mirrored-{sides_key(pairs.values('captions'))}" if mirrored else "clean"
        name = f"{folder.name}-{kind}"
        store = StoredStates(folder.with_name(name), len(pairs), encoder.dim, length, width)
        label = f"encoding {'mirrored ' if mirrored else ''}pictures, once"
        prepare = partial(_prepare, encoder, pairs, mirrored)
        store.write(encoder, range(len(pairs)), prepare, progress=progress, label=label)
        pictures.append(store)
    return Part(pairs, pictures)


def _prepare(encoder: DualEncoder, pairs: Pairs, mirrored: bool, rows: Sequence[int]) -> dict[str, Any]:
    images = []
    for row in (pairs[index] for index in rows):
        image = view(row, None, encoder.image_size or 224, 0, 0)
        images.append(ImageOps.mirror(image) if mirrored and not names_a_side(row.captions) else image)
    return encoder.preprocess(images)
