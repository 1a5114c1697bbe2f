"""What a matcher trains on: vectors and states of frozen towers, computed once, and the pairs in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.labelled import Labelled
from diptych.data.pairs import Pairs
from diptych.images.augment import augmentation, sides_key
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates, StoredHiddenStates, compute_hidden_states
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress
from diptych.training.batches import Epochs, view


@dataclass
class Part:
    """The training or the validation part: pictures, texts and which picture each text was put to.

    `labels` says which of these match; None where all do (captions).
    """

    pairs: Pairs
    texts: list[str]
    rows: np.ndarray  # (texts,) the row of each text's picture
    labels: np.ndarray | None
    pictures: list[StoredHiddenStates]  # one for each view; the first is the clean picture
    stored_texts: StoredHiddenStates
    places: np.ndarray  # (texts,) where each text lies in `stored_texts`

    def images(self, rows: np.ndarray, epoch: int = 0) -> HiddenStates:
        return self.pictures[epoch % len(self.pictures)].take(rows)

    def captions(self, texts: np.ndarray) -> HiddenStates:
        return self.stored_texts.take(self.places[texts])

    @property
    def image_vectors(self) -> np.ndarray:
        """(pictures, dim) unit vectors."""
        return np.asarray(self.pictures[0].vectors)

    @property
    def text_vectors(self) -> np.ndarray:
        """(texts, dim) unit vectors."""
        return np.asarray(self.stored_texts.vectors)[self.places]


def widths(encoder: DualEncoder) -> dict[str, tuple[int, int]]:
    """Places and width of the states of a picture and of a short text."""
    import torch

    size = encoder.image_size or 224
    with torch.inference_mode():
        image = compute_hidden_states(encoder, encoder.preprocess_images([Image.new("RGB", (size, size))])).states
        text = compute_hidden_states(encoder, encoder.preprocess_texts(["a picture"])).states
    return {"image": (image.shape[1], image.shape[2]), "text": (text.shape[1], text.shape[2])}


def store_part(
    encoder: DualEncoder,
    pairs: Pairs,
    labelled: Labelled | None,
    *,
    with_states: bool,
    max_tokens: int,
    augment: str = "none",
    views: int = 1,
    seed: int = 0,
    progress: Progress,
) -> Part:
    """Encode a part of the data, or find it encoded by an earlier run: kept under the identities of model and data."""
    texts, rows = (labelled.texts, labelled.rows) if labelled else pairs.flat_captions()
    kept = widths(encoder) if with_states else {"image": (0, 0), "text": (0, 0)}
    length = min(max_tokens, _longest(encoder, texts)) if with_states else 0
    pictures = store_pictures(encoder, pairs, kept["image"], augment=augment, views=views, seed=seed, progress=progress)
    folder = _folder(encoder, with_states)
    order = np.argsort([len(text) for text in texts], kind="stable")  # batches of one length pad little
    by_length = [texts[at] for at in order]
    name = hashlib.sha256("\0".join(by_length).encode()).hexdigest()[:16]
    stored = StoredHiddenStates(folder / f"{name}-{length}", len(texts), encoder.dim, length, kept["text"][1])
    stored.write(encoder, by_length, encoder.preprocess_texts, progress=progress, label="encoding texts, once")
    return Part(pairs, texts, rows, labelled.labels if labelled else None, pictures, stored, np.argsort(order))


def store_pictures(
    encoder: DualEncoder,
    pairs: Pairs,
    kept: tuple[int, int],
    *,
    augment: str,
    views: int,
    seed: int,
    progress: Progress,
) -> list[StoredHiddenStates]:
    """Encode `views` of each picture, the first as it is, or find them encoded by an earlier run.

    `kept` is what of a picture's states is kept beside its vector: places and width, or (0, 0).
    """
    folder = _folder(encoder, kept != (0, 0))
    sides = sides_key(pairs.values("captions"))  # which pictures are mirrored depends on what their captions say
    pictures = []
    for number in range(views):
        name = f"{pairs.fingerprint()}-{f'{augment}-{seed}-{sides}-{number}' if number else 'clean'}"
        store = StoredHiddenStates(folder / name, len(pairs), encoder.dim, *kept)
        prepare = partial(_views, encoder, pairs, augmentation(augment) if number else None, seed, number)
        store.write(encoder, range(len(pairs)), prepare, progress=progress, label="encoding pictures, once")
        pictures.append(store)
    return pictures


def _folder(encoder: DualEncoder, with_states: bool) -> Path:
    return cache_dir() / "states" / f"{encoder.identity()}-{'states' if with_states else 'vectors'}"


def _views(encoder: DualEncoder, pairs: Pairs, change: Any, seed: int, number: int, rows: Sequence[int]) -> dict:
    size = encoder.image_size or 224
    return encoder.preprocess_images([view(pairs[row], change, size, seed, number) for row in rows])


def _longest(encoder: DualEncoder, texts: Sequence[str]) -> int:
    """Tokens of the text with the most words: an upper bound would be dear, and a few cut words cost nothing."""
    longest = sorted(texts, key=len)[-32:]
    return int(encoder.preprocess_texts(longest)["input_ids"].shape[1])


class HardBatches:
    """Batches in which each picture is followed by pictures that are easily taken for it.

    `1 / (1 + hard)` of a batch are pictures in the epoch's order, each followed by `hard` others that the dual encoder
    finds close to its caption; every picture comes with a caption of its own. So a caption meets `hard` hard negatives
    and a batch of random ones. Order, captions and negatives are drawn from (seed, epoch, step) alone.
    """

    def __init__(self, part: Part, batch_size: int, hard: int, candidates: np.ndarray, seed: int) -> None:
        self.epochs = Epochs(part.pairs, batch_size, seed)
        self.seeds = max(1, self.epochs.batch_size // (1 + hard))
        self.hard, self.candidates, self.seed = hard, candidates, seed  # candidates: (captions, pool) rows

    @property
    def steps(self) -> int:
        return self.epochs.steps

    def __call__(self, epoch: int, first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(epoch, rows, flat caption indices) of each batch from step `first` on."""
        for step, (_, rows, captions) in enumerate(self.epochs(epoch, first), first):
            if not self.hard:
                yield epoch, rows, captions
                continue
            random = np.random.default_rng([self.seed, epoch, step])
            rows, captions = rows[: self.seeds], captions[: self.seeds]
            near = np.stack([random.choice(self.candidates[caption], self.hard) for caption in captions])
            near = near.ravel()
            of_near = self.epochs.firsts[near] + random.integers(self.epochs.counts[near])
            yield epoch, np.concatenate([rows, near]), np.concatenate([captions, of_near])
