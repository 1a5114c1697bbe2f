"""Images that a frozen dual encoder has encoded once, in one or several augmented views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diptych.data.pairs import Pairs
from diptych.images.augment import augmentation, sides_key
from diptych.models.dual_encoder import DualEncoder
from diptych.models.heads import Features
from diptych.models.hidden_states import HiddenStates, StoredHiddenStates, compute_hidden_states
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress
from diptych.training.batches import Augmentation, load_view

StateShape = tuple[int, int]
"""(length, width) of the hidden states of an item; (0, 0) if only its embedding is stored."""


@dataclass(frozen=True, slots=True)
class Views:
    """The views of each image that are encoded: the first is the image itself, the others are augmented.

    Attributes:
        count: number of views.
        augment: name of the augmentation (`diptych.images.augment`).
        seed: seed of the augmentation.
    """

    count: int = 1
    augment: str = "none"
    seed: int = 0


@dataclass
class EncodedImages:
    """The images of a split with their captions, and their embeddings and hidden states."""

    pairs: Pairs
    views: list[StoredHiddenStates]
    """One per view; the first is not augmented."""

    def take(self, rows: NDArray[np.int64], view: int = 0) -> HiddenStates:
        """The images at `rows` in a view; view numbers wrap around, so that epochs cycle through the views."""
        return self.views[view % len(self.views)].take(rows)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """(images, dim) unit embeddings of the first view."""
        return np.asarray(self.views[0].embeddings)


def encode_images(
    encoder: DualEncoder, pairs: Pairs, shape: StateShape, views: Views | None = None, *, progress: Progress
) -> EncodedImages:
    """Encode the images of a split, or read them from the cache; a matcher and a captioner share it.

    Args:
        encoder: the dual encoder.
        pairs: the split.
        shape: the hidden states to store per image; see `state_shapes`.
        views: the views of each image; by default one.
        progress: wraps the batches of images.

    Raises:
        ModelError: hidden states are requested, and the image tower does not expose them.
    """
    views = views or Views()
    folder = states_folder(encoder, shape != (0, 0))
    sides = sides_key(pairs.values("captions"))  # images whose captions mention a side are not mirrored
    stores = []
    for number in range(views.count):
        name = f"{pairs.fingerprint()}-{f'{views.augment}-{views.seed}-{sides}-{number}' if number else 'clean'}"
        store = StoredHiddenStates(folder / name, len(pairs), encoder.dim, *shape)
        prepare = partial(_load, encoder, pairs, augmentation(views.augment) if number else None, views.seed, number)
        store.write(encoder, range(len(pairs)), prepare, progress=progress, label="encoding images")
        stores.append(store)
    return EncodedImages(pairs, stores)


def state_shapes(encoder: DualEncoder) -> dict[str, StateShape]:
    """The (length, width) of the hidden states of an image and of a short text, by modality.

    Raises:
        ModelError: a tower does not expose its hidden states.
    """
    size = encoder.image_size or 224
    with torch.inference_mode():
        image = compute_hidden_states(encoder, encoder.preprocess_images([Image.new("RGB", (size, size))])).states
        text = compute_hidden_states(encoder, encoder.preprocess_texts(["a picture"])).states
    return {"image": (image.shape[1], image.shape[2]), "text": (text.shape[1], text.shape[2])}


def states_folder(encoder: DualEncoder, with_states: bool) -> Path:
    """The cache folder for what the encoder has encoded, with hidden states or as embeddings alone."""
    return cache_dir() / "states" / f"{encoder.fingerprint()}-{'states' if with_states else 'vectors'}"


def _load(
    encoder: DualEncoder, pairs: Pairs, augment: Augmentation | None, seed: int, number: int, rows: Sequence[int]
) -> Features:
    size = encoder.image_size or 224
    return encoder.preprocess_images([load_view(pairs[row], augment, size, seed, number) for row in rows])
