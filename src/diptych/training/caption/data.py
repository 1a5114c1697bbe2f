"""What a captioner trains on: the patch states of frozen pictures, in one or several views, and their captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.data.pairs import Pairs
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates, StoredHiddenStates
from diptych.runtime.progress import Progress
from diptych.training.match.data import store_pictures, widths


@dataclass
class Part:
    """The training or the validation part: pictures with their captions, and what the image tower made of them."""

    pairs: Pairs
    pictures: list[StoredHiddenStates]  # one for each view; the first is the picture as it is

    def images(self, rows: np.ndarray, view: int = 0) -> HiddenStates:
        return self.pictures[view % len(self.pictures)].take(rows)


def store_part(
    encoder: DualEncoder, pairs: Pairs, *, augment: str = "none", views: int = 1, seed: int = 0, progress: Progress
) -> Part:
    """Encode the pictures of a part, or find them encoded by an earlier run, a matcher's too."""
    kept = widths(encoder)["image"]
    return Part(pairs, store_pictures(encoder, pairs, kept, augment=augment, views=views, seed=seed, progress=progress))
