"""The matcher: the probability that a picture and a text belong together.

A dual encoder, a head that compares what its towers made of picture and text (`heads`), and a calibration that
makes its logit a probability which means what it says: of the pairs that get 0.8, eight in ten match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError
from diptych.matching.calibration import EVIDENCE, Calibration, sigmoid
from diptych.matching.heads import Side
from diptych.matching.hubness import Banks
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import decode_all
from diptych.models.hidden_states import HiddenStates, compute_hidden_states
from diptych.models.modalities import checked_images, checked_texts
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_BLOCK = 512  # pairs compared at once


@dataclass
class Encoded:
    """Pictures or texts as a matcher keeps them: their vectors (items, dim), hubness (items,), what its head made."""

    vectors: Tensor
    hubness: Tensor
    side: Side

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Several batches as one; texts are padded to the longest of all."""
        sides = zip(*(part.side for part in parts), strict=True)
        return cls(
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.hubness for part in parts]),
            tuple(_joined(list(tensors)) for tensors in sides),
        )

    def take(self, rows: np.ndarray | Sequence[int]) -> Encoded:
        at = torch.as_tensor(np.asarray(rows, np.int64), device=self.vectors.device)
        return Encoded(self.vectors[at], self.hubness[at], tuple(tensor[at] for tensor in self.side))


class Matcher:
    """P(match) by one head over one dual encoder; `load_matcher` reads one, the recipe `match` trains one.

    `name` is the head's in `HEADS` (or `cosine`), `settings` are its arguments: what a directory keeps of it.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        head: nn.Module,
        calibration: Calibration,
        *,
        name: str,
        settings: dict[str, Any] | None = None,
        banks: Banks | None = None,
    ) -> None:
        self.encoder, self.calibration, self.name, self.settings = encoder, calibration, name, settings or {}
        self.head: Any = head.eval().to(encoder.device)
        self.banks = banks.to(encoder.device) if banks else None

    def predict(self, images: Sequence[Image.Image], texts: Sequence[str], *, prior: float | None = None) -> np.ndarray:
        """The probability that each picture and the text beside it match: (pairs,) float64 in [0, 1].

        A picture (the same object) or a text that comes many times is encoded once. `prior` is the share of matches to
        be expected, when it is not the one that the matcher was calibrated for (`calibration.prior`).

        Raises:
            ConfigError: not as many pictures as texts, an empty text or one that is not a string, an image that is not
                decoded, or a prior outside (0, 1).
        """
        images, texts = checked_images(images), checked_texts(texts)
        if len(images) != len(texts):
            raise ConfigError(f"{len(images)} pictures and {len(texts)} texts; give one text for each picture")
        if empty := [at for at, text in enumerate(texts) if not text.strip()]:
            raise ConfigError(f"text {empty[0]} is empty; say in words what the picture shows")
        if not len(texts):
            return np.empty(0)
        different = {id(image): image for image in images}
        places = {key: at for at, key in enumerate(different)}
        wordings = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        return self.probabilities(
            self.encode_images(different.values()),
            self.encode_texts(list(wordings)),
            np.array([places[id(image)] for image in images]),
            np.array([wordings[text] for text in texts]),
            prior=prior,
        )

    # encoding

    def encode_images(self, images: Iterable[Image.Image], batch_size: int = 32) -> Encoded:
        """Upright RGB pictures, encoded."""
        images = list(images)
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return Encoded.join([self._forward(self.encoder.preprocess_images(batch)) for batch in batches])

    def encode_texts(self, texts: Sequence[str], batch_size: int = 128) -> Encoded:
        """Texts, encoded."""
        texts = checked_texts(texts)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # batches of one length pad little
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        prepared = (self.encoder.preprocess_texts(texts[index] for index in batch) for batch in batches)
        parts = Encoded.join([self._forward(features) for features in prepared])
        return parts.take(np.argsort(order))

    def encode_pictures(self, pairs: Pairs, *, batch_size: int = 32, progress: Progress = silent) -> Encoded:
        """The pictures of a data set, decoded beside the model.

        Raises:
            DataError: one cannot be decoded; `doctor.sound` leaves those out.
        """

        def prepare(start: int) -> dict[str, Any]:
            rows = list(pairs[start : start + batch_size])
            images, good = decode_all((row.image for row in rows), self.encoder.image_size)
            if not good.all():
                bad = rows[int(np.argmin(good))].image_id
                raise DataError(f"picture '{bad}' cannot be decoded; `diptych data inspect` says why")
            return self.encoder.preprocess_images(images)

        starts = range(0, len(pairs), batch_size)
        batches = progress(prefetch(starts, prepare), len(starts), "encoding pictures")
        return Encoded.join([self._forward(features) for features in batches])

    def encode_vectors(self, modality: str, vectors: np.ndarray) -> Encoded:
        """Pictures or texts by the vectors that the dual encoder gave them before, (items, dim); nothing is decoded.

        Raises:
            ConfigError: the head looks at patches and tokens, which vectors do not hold.
        """
        if self.head.needs_states:
            raise ConfigError(f"the head '{self.name}' needs the pictures themselves; use the head 'pair'")
        kept = torch.from_numpy(np.array(vectors, np.float32)).to(self.encoder.device)
        return self._encoded(modality, kept, (kept,))

    @torch.inference_mode()
    def _forward(self, features: dict[str, Any]) -> Encoded:
        modality = "image" if "pixel_values" in features else "text"
        if not self.head.needs_states:
            vectors = self.encoder.embed(features)
            return self._encoded(modality, vectors, (vectors,))
        states = compute_hidden_states(self.encoder, features)
        return self.encode_states(modality, states)

    @torch.inference_mode()
    def encode_states(self, modality: str, states: HiddenStates) -> Encoded:
        """States that the towers gave before, encoded; patches and tokens are kept in half precision."""
        side = self.head.encode(modality, states)
        kept = tuple(tensor.half() if tensor.ndim > 2 else tensor for tensor in side)
        return self._encoded(modality, states.vectors, kept)

    def _encoded(self, modality: str, vectors: Tensor, side: Side) -> Encoded:
        hubness = self.banks.hubness(modality, vectors) if self.banks else vectors.new_zeros(len(vectors))
        return Encoded(vectors, hubness, side)

    # comparing

    def logits(
        self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray, *, prior: float | None = None
    ) -> np.ndarray:
        """Calibrated logits of pairs: (pairs,) for pictures `rows` and texts `columns`."""
        return self.calibration.logits(self.evidence(images, texts, rows, columns), prior)

    def probabilities(
        self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray, *, prior: float | None = None
    ) -> np.ndarray:
        """Probabilities of pairs: (pairs,) for pictures `rows` and texts `columns`."""
        return sigmoid(self.logits(images, texts, rows, columns, prior=prior))

    def evidence(self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """What the calibration weighs: (pairs, 4) float64, its columns those of `calibration.EVIDENCE`."""
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(rows), _BLOCK)]
        parts = [self._compare(images.take(rows[block]), texts.take(columns[block])) for block in blocks]
        return np.concatenate(parts) if parts else np.empty((0, len(EVIDENCE)))

    @torch.inference_mode()
    def _compare(self, images: Encoded, texts: Encoded) -> np.ndarray:
        head = self.head.pairs(_full(images.side), _full(texts.side))
        cosine = (images.vectors * texts.vectors).sum(-1)
        known = torch.stack([head.float(), cosine, images.hubness, texts.hubness], dim=1)  # (pairs, 4)
        return known.cpu().numpy().astype(np.float64)


def _full(side: Side) -> Side:
    return tuple(tensor.float() for tensor in side)


def _joined(tensors: list[Tensor]) -> Tensor:
    """Tensors one after another; where they have a second axis of different lengths, zeros fill the shorter ones."""
    if tensors[0].ndim < 2:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    whole = tensors[0].new_zeros((sum(map(len, tensors)), longest, *tensors[0].shape[2:]))
    start = 0
    for tensor in tensors:
        whole[start : start + len(tensor), : tensor.shape[1]] = tensor
        start += len(tensor)
    return whole
