"""Training batches of a dual encoder: one caption per image, encoded live or read from stored features.

Every random choice (order, caption, augmentation) is a hash of the seed, the epoch and the image id, so that a resumed
run repeats the choices of an uninterrupted one, in any thread.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from diptych.data.pairs import Pairs, Row
from diptych.data.row_table import Captions, TextSequence
from diptych.errors import DataError
from diptych.images.augment import augmentation, draw, names_a_side, sides_key
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import EmbeddingFile, dataset_image_embeddings, decode_all, write_embeddings
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.heads import EMBEDDING, Features
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

PairBatch: TypeAlias = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""(epoch, rows, captions): a batch by its image rows and the flat index of the caption of each."""

Item = TypeVar("Item")

_BLOCK = 4096  # features projected at once in validation


class PairSampler:
    """Batches of image-caption pairs in a random order, with one caption per image and epoch.

    Every epoch takes another caption of an image, until all have been used.
    """

    def __init__(self, pairs: Pairs, batch_size: int, seed: int) -> None:
        self.pairs, self.seed = pairs, seed
        self.batch_size = min(batch_size, len(pairs))
        self.captions, self.counts = pairs.captions(), pairs.caption_counts()
        self.first_captions = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        # The epoch is added to the offset of an image, so that consecutive epochs take different captions.
        offsets = (draw(seed, image_id).randrange(2**31) for image_id in pairs.values("image_id"))
        self.offsets = np.fromiter(offsets, np.int64, len(pairs))

    @property
    def steps(self) -> int:
        """The number of batches in an epoch; an incomplete last batch is dropped."""
        return len(self.pairs) // self.batch_size

    def __call__(self, epoch: int, first: int) -> Iterator[PairBatch]:
        """The batches of an epoch from step `first` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        for step in range(first, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield epoch, rows, self.first_captions[rows] + (self.offsets[rows] + epoch) % self.counts[rows]

    def caption_ids(self, captions: NDArray[np.int64]) -> Tensor:
        """(batch,) integers, equal for captions with the same text up to case and whitespace."""
        texts = (" ".join(caption.lower().split()) for caption in self.captions.take(captions))
        hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        return torch.tensor([int.from_bytes(value, signed=True) for value in hashes])


class EmbeddingSource(Protocol):
    """The image or text embeddings of training and validation, from a live tower or from stored features."""

    def load(self, epoch: int, rows: NDArray[np.int64], captions: NDArray[np.int64], /) -> Features:
        """The inputs of `embed` for a batch of pairs; called in threads."""

    def embed(self, inputs: Features, /) -> Tensor:
        """(batch, dim) unit embeddings."""

    def validation(self) -> NDArray[np.float32]:
        """(images or captions, dim) unit embeddings of the validation split."""


class LiveImages:
    """Images that are decoded, augmented and encoded at every step."""

    def __init__(self, model: DualEncoder, train: Pairs, val: Pairs, augment: str, seed: int) -> None:
        self.model, self.train, self.val, self.seed = model, train, val, seed
        self.augment, self.size = augmentation(augment), model.image_size or 224

    def load(self, epoch: int, rows: NDArray[np.int64], _captions: NDArray[np.int64]) -> Features:
        """The augmented images of a batch, preprocessed."""
        return self.model.preprocess_images(
            [load_view(self.train[int(row)], self.augment, self.size, self.seed, epoch) for row in rows]
        )

    def embed(self, inputs: Features) -> Tensor:
        """(batch, dim) unit embeddings."""
        return self.model.embed(inputs)

    def validation(self) -> NDArray[np.float32]:
        """(images, dim) unit embeddings of the validation images."""
        return dataset_image_embeddings(self.model, self.val, cache=False)


class LiveTexts:
    """Captions that are encoded at every step."""

    def __init__(self, model: DualEncoder, captions: Captions, val: Pairs) -> None:
        self.model, self.captions, self.val_captions = model, captions, val.captions()

    def load(self, _epoch: int, _rows: NDArray[np.int64], captions: NDArray[np.int64]) -> Features:
        """The captions of a batch, preprocessed."""
        return self.model.preprocess_texts(self.captions.take(captions))

    def embed(self, inputs: Features) -> Tensor:
        """(batch, dim) unit embeddings."""
        return self.model.embed(inputs)

    def validation(self) -> NDArray[np.float32]:
        """(captions, dim) unit embeddings of the validation captions."""
        return self.model.encode_texts(self.val_captions)


@dataclass
class StoredFeatures:
    """Pooled features of a frozen tower, computed once and stored on disk; only the projection head runs."""

    train: NDArray[np.float16]  # images: (rows, views, width); captions: (captions, 1, width)
    val: NDArray[np.float16]  # (rows or captions, 1, width)
    head: nn.Module
    device: torch.device
    of_images: bool
    positions: NDArray[np.integer] | None = None  # (captions,) the position of each in `train`; None: in order

    def load(self, epoch: int, rows: NDArray[np.int64], captions: NDArray[np.int64]) -> Features:
        """The stored features of a batch, (batch, width), in the view of the epoch."""
        indices: NDArray[np.integer] = rows if self.of_images else captions
        if self.positions is not None:
            indices = self.positions[indices]
        features = self.train[indices, epoch % self.train.shape[1]]
        return {EMBEDDING: torch.from_numpy(features.astype(np.float32))}

    def embed(self, inputs: Features) -> Tensor:
        """(batch, dim) unit embeddings."""
        features = self.head({EMBEDDING: inputs[EMBEDDING].to(self.device)})
        return functional.normalize(features[EMBEDDING].float(), dim=-1)

    @torch.inference_mode()
    def validation(self) -> NDArray[np.float32]:
        """(images or captions, dim) unit embeddings of the validation split."""
        blocks = (self.val[start : start + _BLOCK, 0].astype(np.float32) for start in range(0, len(self.val), _BLOCK))
        return np.concatenate([self.embed({EMBEDDING: torch.from_numpy(block)}).cpu().numpy() for block in blocks])


Augmentation: TypeAlias = Callable[[Image.Image, int, random.Random, bool], Image.Image]


def load_view(row: Row, augment: Augmentation | None, size: int, seed: int, epoch: int) -> Image.Image:
    """The image of a row in an epoch: decoded, and augmented to `size` pixels unless `augment` is None.

    Raises:
        DataError: the image can no longer be read.
    """
    images, good = decode_all([row.image], None if augment is None else 2 * size)
    if not good.all():
        raise DataError(f"image '{row.image_id}' can no longer be read; do not change the data set during training")
    if augment is None:
        return images[0]
    return augment(images[0], size, draw(seed, epoch, row.image_id), not names_a_side(row.captions))


def store_image_features(
    model: DualEncoder, train: Pairs, val: Pairs, *, augment: str, views: int, seed: int, progress: Progress = silent
) -> StoredFeatures:
    """Compute the features of the frozen image tower, or read them from the cache.

    Args:
        model: the dual encoder.
        train: training images, stored in `views` views, of which the first is not augmented.
        val: validation images, stored in one view that is not augmented.
        augment: name of the augmentation.
        views: number of views per training image.
        seed: seed of the augmentation.
        progress: wraps the batches of images.
    """
    size = model.image_size or 224

    def features(pairs: Pairs, views: int, augment: Augmentation | None, label: str) -> NDArray[np.float16]:
        def prepare(keys: Sequence[int]) -> Features:
            items = ((pairs[key // views], key % views) for key in keys)
            return model.preprocess_images(
                [load_view(row, augment if number else None, size, seed, number) for row, number in items]
            )

        # The captions are part of the key: images whose captions mention a side are not mirrored.
        kind = f"{label}-{seed}-{sides_key(pairs.values('captions'))}" if views > 1 else "clean-0"
        name = f"{pairs.fingerprint()}-{views}-{kind}"
        flat = _tower_features(model, "image", name, range(len(pairs) * views), prepare, progress)
        return flat.reshape(len(pairs), views, -1)

    return StoredFeatures(
        features(train, views, augmentation(augment), augment),
        features(val, 1, None, "clean"),
        nn.Sequential(*model.head("image")),
        model.device,
        of_images=True,
    )


def store_text_features(
    model: DualEncoder, train: Captions, val: Captions, progress: Progress = silent
) -> StoredFeatures:
    """Compute the features of the frozen text tower for every caption, or read them from the cache."""

    def features(captions: Captions) -> tuple[NDArray[np.float16], NDArray[np.integer]]:
        by_length = _ByLength(captions)
        stored = _tower_features(model, "text", by_length.hash(), by_length, model.preprocess_texts, progress)
        return stored[:, None], by_length.places()

    train_features, positions = features(train)
    val_features, val_positions = features(val)
    head = nn.Sequential(*model.head("text"))
    return StoredFeatures(
        train_features, val_features[val_positions], head, model.device, of_images=False, positions=positions
    )


class _ByLength(TextSequence):
    """Captions by ascending length, since batches of one length need little padding; read in slices."""

    def __init__(self, captions: Captions) -> None:
        self.captions = captions
        self.order = np.argsort(captions.lengths(), kind="stable")  # (captions,)

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, indices: NDArray[np.integer]) -> list[str]:
        """The captions at `indices` of this order."""
        return self.captions.take(self.order[indices])

    def hash(self) -> str:
        """A hash of the captions in this order."""
        digest, separator = hashlib.sha256(), b""
        for start in range(0, len(self), 1024):
            digest.update(separator + "\0".join(self[start : start + 1024]).encode())
            separator = b"\0"
        return digest.hexdigest()[:16]

    def places(self) -> NDArray[np.integer]:
        """(captions,) the position of each caption in this order."""
        places = np.empty(len(self), np.min_scalar_type(len(self)))
        places[self.order] = np.arange(len(self))
        return places


def _tower_features(
    model: DualEncoder,
    modality: str,
    data: str,
    items: Sequence[Item],
    prepare: Callable[[Sequence[Item]], Features],
    progress: Progress,
) -> NDArray[np.float16]:
    """(items, width) pooled features of a tower before its head, cached by the tower's fingerprint and `data`."""
    tower = model.tower(modality)
    width = tower[-1].get_embedding_dimension()
    folder = cache_dir() / "features" / f"{modules_fingerprint(tower)}-{data}"
    sink = EmbeddingFile(folder, (len(items), width), "float16")

    @torch.inference_mode()
    def forward(features: Features) -> NDArray[np.float32]:
        features = model.to_device(features)
        for module in tower:
            features = module(features)
        return features[EMBEDDING].float().cpu().numpy()

    return write_embeddings(
        sink, items, prepare, forward, progress=progress, label=f"features of the frozen {modality} tower"
    )
