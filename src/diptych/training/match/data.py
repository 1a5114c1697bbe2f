"""Training data of a matcher: image-text pairs, encoded once by the frozen dual encoder, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.data.labelled import Labelled
from diptych.data.pairs import Pairs
from diptych.models.dual_encoder import DualEncoder
from diptych.models.hidden_states import HiddenStates, StoredHiddenStates
from diptych.runtime.progress import Progress
from diptych.training.batches import PairBatch, PairSampler
from diptych.training.encoded_images import EncodedImages, Views, encode_images, state_shapes, states_folder


@dataclass
class EncodedPairs:
    """A split of image-text pairs with the embeddings and hidden states of both."""

    images: EncodedImages
    texts: list[str]
    rows: NDArray[np.int64]  # (texts,) the image row of each text
    labels: NDArray[np.bool_] | None  # (texts,) whether text and image match; None: all do
    stored_texts: StoredHiddenStates
    positions: NDArray[np.int64]  # (texts,) the position of each text in `stored_texts`

    @property
    def pairs(self) -> Pairs:
        """The images with their captions."""
        return self.images.pairs

    def take_texts(self, texts: NDArray[np.int64]) -> HiddenStates:
        """The texts with the given indices."""
        return self.stored_texts.take(self.positions[texts])

    @property
    def text_embeddings(self) -> NDArray[np.float32]:
        """(texts, dim) unit embeddings."""
        return np.asarray(self.stored_texts.embeddings)[self.positions]


def encode_pairs(
    encoder: DualEncoder,
    pairs: Pairs,
    labelled: Labelled | None,
    views: Views | None = None,
    *,
    with_states: bool,
    max_tokens: int,
    progress: Progress,
) -> EncodedPairs:
    """Encode the images and texts of a split, or read them from the cache.

    Args:
        encoder: the dual encoder.
        pairs: the images with their captions.
        labelled: labelled pairs of these images, whose texts replace the captions.
        views: the views of each image; by default one.
        with_states: store hidden states beside the embeddings; the cross head needs them.
        max_tokens: maximum number of hidden states per text.
        progress: wraps the batches of images and texts.

    Raises:
        ModelError: hidden states are requested, and a tower does not expose them.
    """
    texts, rows = (labelled.texts, labelled.rows) if labelled else pairs.flat_captions()
    shapes = state_shapes(encoder) if with_states else {"image": (0, 0), "text": (0, 0)}
    length = min(max_tokens, _max_length(encoder, texts)) if with_states else 0
    images = encode_images(encoder, pairs, shapes["image"], views, progress=progress)
    order = np.argsort([len(text) for text in texts], kind="stable")  # batches of one length need little padding
    sorted_texts = [texts[index] for index in order]
    name = hashlib.sha256("\0".join(sorted_texts).encode()).hexdigest()[:16]
    folder = states_folder(encoder, with_states) / f"{name}-{length}"
    stored = StoredHiddenStates(folder, len(texts), encoder.dim, length, shapes["text"][1])
    stored.write(encoder, sorted_texts, encoder.preprocess_texts, progress=progress, label="encoding texts")
    return EncodedPairs(images, texts, rows, labelled.labels if labelled else None, stored, np.argsort(order))


def _max_length(encoder: DualEncoder, texts: Sequence[str]) -> int:
    """The largest number of tokens among the 32 longest texts: nearly that of all, without tokenizing all."""
    longest = sorted(texts, key=len)[-32:]
    return int(encoder.preprocess_texts(longest)["input_ids"].shape[1])


class HardNegativeSampler:
    """Batches in which every sampled image is followed by hard negatives of its caption.

    A fraction `1 / (1 + hard)` of a batch are images in the random order of the epoch; each is followed by `hard`
    others that the dual encoder finds close to its caption. Every image has a caption of its own, so that a caption
    meets `hard` hard negatives and a batch of random ones. All choices depend on (seed, epoch, step) alone.

    Args:
        pairs: the training images with their captions.
        batch_size: images per batch.
        hard: hard negatives per image.
        candidates: (captions, pool) image rows from which the hard negatives of each caption are sampled.
        seed: random seed.
    """

    def __init__(self, pairs: Pairs, batch_size: int, hard: int, candidates: NDArray[np.int64], seed: int) -> None:
        self.sampler = PairSampler(pairs, batch_size, seed)
        self.anchors = max(1, self.sampler.batch_size // (1 + hard))
        self.hard, self.candidates, self.seed = hard, candidates, seed

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.sampler.steps

    def __call__(self, epoch: int, first: int) -> Iterator[PairBatch]:
        """The batches of an epoch from step `first` on."""
        for step, (_, rows, captions) in enumerate(self.sampler(epoch, first), first):
            if not self.hard:
                yield epoch, rows, captions
                continue
            random = np.random.default_rng([self.seed, epoch, step])
            rows, captions = rows[: self.anchors], captions[: self.anchors]
            negatives = np.concatenate([random.choice(self.candidates[caption], self.hard) for caption in captions])
            negative_captions = self.sampler.first_captions[negatives] + random.integers(self.sampler.counts[negatives])
            yield epoch, np.concatenate([rows, negatives]), np.concatenate([captions, negative_captions])
