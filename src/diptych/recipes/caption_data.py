"""What a captioner trains on: the patch states of frozen pictures, in one or several views, and their captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.dual import DualEncoder
from diptych.pairs import Pairs
from diptych.progress import Progress
from diptych.recipes.match_data import store_pictures, widths
from diptych.states import States, StoredStates


@dataclass
class Part:
    """The training or the validation part: pictures with their captions, and what the image tower made of them."""

    pairs: Pairs
    pictures: list[StoredStates]  # one for each view; the first is the picture as it is

    def images(self, rows: np.ndarray, view: int = 0) -> States:
        return self.pictures[view % len(self.pictures)].take(rows)


def store_part(
    encoder: DualEncoder, pairs: Pairs, *, augment: str = "none", views: int = 1, seed: int = 0, progress: Progress
) -> Part:
    """Encode the pictures of a part, or find them encoded by an earlier run, a matcher's too."""
    kept = widths(encoder)["image"]
    return Part(pairs, store_pictures(encoder, pairs, kept, augment=augment, views=views, seed=seed, progress=progress))
