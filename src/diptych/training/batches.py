"""What a training batch is made of: one caption of each picture, decoded live or read from a frozen tower's features.

Every choice (order, caption, view) is a hash of the seed, the epoch and the picture's id, so that a resumed run draws
what an uninterrupted one would have drawn, in whatever thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diptych.data.pairs import Pairs
from diptych.data.row_table import Captions
from diptych.errors import DataError
from diptych.images.augment import augmentation, draw, names_a_side, sides_key
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import VectorFile, decode_all, picture_vectors, write_vectors
from diptych.models.fingerprint import modules_fingerprint
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent


class Epochs:
    """The order of the pictures and the caption of each, epoch by epoch."""

    def __init__(self, pairs: Pairs, batch_size: int, seed: int) -> None:
        self.pairs, self.seed = pairs, seed
        self.batch_size = min(batch_size, len(pairs))
        self.captions, self.counts = pairs.captions(), pairs.caption_counts()
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        # Adding the epoch to a picture's own offset takes another caption every epoch, and all of them in turn.
        offsets = (draw(seed, image_id).randrange(2**31) for image_id in pairs.values("image_id"))
        self.offsets = np.fromiter(offsets, np.int64, len(pairs))

    @property
    def steps(self) -> int:
        """Batches in an epoch; the pictures left over wait for another epoch's order."""
        return len(self.pairs) // self.batch_size

    def __call__(self, epoch: int, first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(epoch, rows, flat caption indices) of each batch from step `first` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        for step in range(first, self.steps):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield epoch, rows, self.firsts[rows] + (self.offsets[rows] + epoch) % self.counts[rows]

    def caption_ids(self, captions: np.ndarray) -> Tensor:
        """(batch,) integers that are equal where the captions' texts are, but for case and spaces."""
        texts = (" ".join(caption.lower().split()) for caption in self.captions.take(captions))
        hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        return torch.tensor([int.from_bytes(value, signed=True) for value in hashes])


class Side(Protocol):
    """One half of the model as training sees it."""

    def load(self, epoch: int, rows: np.ndarray, captions: np.ndarray) -> Any:
        """What `embed` needs for these pairs; called in threads."""

    def embed(self, loaded: Any) -> Tensor:
        """(batch, dim) unit vectors."""

    def validation(self) -> np.ndarray:
        """Vectors of the validation part: of its pictures, or of its captions."""


class LivePictures:
    """Pictures decoded, augmented and passed through their tower at every step."""

    def __init__(self, model: DualEncoder, train: Pairs, val: Pairs, augment: str, seed: int) -> None:
        self.model, self.train, self.val, self.seed = model, train, val, seed
        self.augment, self.size = augmentation(augment), model.image_size or 224

    def load(self, epoch: int, rows: np.ndarray, captions: np.ndarray) -> dict[str, Any]:
        return self.model.preprocess_images(
            [view(self.train[int(row)], self.augment, self.size, self.seed, epoch) for row in rows]
        )

    def embed(self, loaded: dict[str, Any]) -> Tensor:
        return self.model.embed(loaded)

    def validation(self) -> np.ndarray:
        return picture_vectors(self.model, self.val, cache=False)


class LiveTexts:
    """Captions passed through their tower at every step."""

    def __init__(self, model: DualEncoder, epochs: Epochs, val: Pairs) -> None:
        self.model, self.epochs = model, epochs
        self.val_captions = val.captions()

    def load(self, epoch: int, rows: np.ndarray, captions: np.ndarray) -> dict[str, Any]:
        return self.model.preprocess_texts(self.epochs.captions.take(captions))

    def embed(self, loaded: dict[str, Any]) -> Tensor:
        return self.model.embed(loaded)

    def validation(self) -> np.ndarray:
        return self.model.encode_texts(self.val_captions)


@dataclass
class Stored:
    """The features of a frozen tower, computed once and kept on disk; only the projection head runs."""

    train: np.ndarray  # pictures: (rows, views, width); captions: (captions, 1, width)
    val: np.ndarray  # (rows or captions, 1, width)
    head: nn.Module
    device: torch.device
    of_pictures: bool
    places: np.ndarray | None = None  # where in `train` each item lies, if not in order

    def load(self, epoch: int, rows: np.ndarray, captions: np.ndarray) -> Tensor:
        chosen = rows if self.of_pictures else captions
        chosen = chosen if self.places is None else self.places[chosen]
        return torch.from_numpy(self.train[chosen, epoch % self.train.shape[1]].astype(np.float32))

    def embed(self, loaded: Tensor) -> Tensor:
        features = self.head({"sentence_embedding": loaded.to(self.device)})
        return functional.normalize(features["sentence_embedding"].float(), dim=-1)

    @torch.inference_mode()
    def validation(self) -> np.ndarray:
        blocks = (self.val[start : start + 4096, 0].astype(np.float32) for start in range(0, len(self.val), 4096))
        return np.concatenate([self.embed(torch.from_numpy(block)).cpu().numpy() for block in blocks])


def view(row, augment, size: int, seed: int, epoch: int):
    """The picture of a row as an epoch sees it: decoded, and augmented unless `augment` is None."""
    images, good = decode_all([row.image], None if augment is None else 2 * size)
    if not good.all():
        raise DataError(f"picture '{row.image_id}' could be read before but not now; was it changed during training?")
    if augment is None:
        return images[0]
    return augment(images[0], size, draw(seed, epoch, row.image_id), not names_a_side(row.captions))


def stored_pictures(
    model: DualEncoder, train: Pairs, val: Pairs, *, augment: str, views: int, seed: int, progress: Progress = silent
) -> Stored:
    """Features of the frozen image tower: `views` of each training picture, the clean one of each for validation."""
    size = model.image_size or 224

    def features(pairs: Pairs, views: int, augment: Callable | None, label: str) -> np.ndarray:
        def prepare(keys: range) -> dict[str, Any]:
            rows = ((pairs[key // views], key % views) for key in keys)
            # the first view is the clean picture
            return model.preprocess_images([view(row, augment if n else None, size, seed, n) for row, n in rows])

        # Which pictures are mirrored depends on what their captions say.
        kind = f"{label}-{seed}-{sides_key(pairs.values('captions'))}" if views > 1 else "clean-0"
        name = f"{pairs.fingerprint()}-{views}-{kind}"
        flat = _tower_features(model, "image", name, range(len(pairs) * views), prepare, progress)
        return flat.reshape(len(pairs), views, -1)

    return Stored(
        features(train, views, augmentation(augment), augment),
        features(val, 1, None, "clean"),
        nn.Sequential(*model.head("image")),
        model.device,
        of_pictures=True,
    )


def stored_texts(model: DualEncoder, epochs: Epochs, val: Pairs, progress: Progress = silent) -> Stored:
    """Features of the frozen text tower for every caption."""

    def features(captions: Captions) -> tuple[np.ndarray, np.ndarray]:
        by_length = _ByLength(captions)
        stored = _tower_features(model, "text", by_length.hash(), by_length, model.preprocess_texts, progress)
        return stored[:, None], by_length.places()

    train, places = features(epochs.captions)
    val_sorted, val_places = features(val.captions())
    head = nn.Sequential(*model.head("text"))
    return Stored(train, val_sorted[val_places], head, model.device, of_pictures=False, places=places)


class _ByLength(Sequence[Any]):
    """Captions in order of their length, since batches of one length pad little; sliced, never held as strings."""

    def __init__(self, captions: Captions) -> None:
        self.captions = captions
        self.order = np.argsort(captions.lengths(), kind="stable")  # (captions,)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: Any) -> Any:
        return self.captions.take(self.order[index])

    def hash(self) -> str:
        """A hash of the captions in this order."""
        digest, between = hashlib.sha256(), b""
        for start in range(0, len(self), 1024):
            digest.update(between + "\0".join(self[start : start + 1024]).encode())
            between = b"\0"
        return digest.hexdigest()[:16]

    def places(self) -> np.ndarray:
        """Where each caption stands in this order: (captions,)."""
        places = np.empty(len(self), np.min_scalar_type(len(self)))
        places[self.order] = np.arange(len(self))
        return places


def _tower_features(
    model: DualEncoder,
    modality: str,
    data: str,
    items: Sequence[Any],
    prepare: Callable[[Any], dict[str, Any]],
    progress: Progress,
) -> np.ndarray:
    """Pooled features of a tower before its head, (items, width) float16, kept by the identities of tower and data."""
    tower = model.tower(modality)
    width = tower[-1].get_embedding_dimension()
    folder = cache_dir() / "features" / f"{modules_fingerprint(tower)}-{data}"
    sink = VectorFile(folder, (len(items), width), "float16")

    @torch.inference_mode()
    def forward(features: dict[str, Any]) -> np.ndarray:
        features = model.to_device(features)
        for module in tower:
            features = module(features)
        return features["sentence_embedding"].float().cpu().numpy()

    return write_vectors(
        sink, items, prepare, forward, progress=progress, label=f"features of the frozen {modality} tower"
    )
