"""The matcher: the calibrated probability that an image and a text match.

A matcher is a dual encoder, a head that compares images with texts (`heads`), and a calibration that turns the head's
logit into a probability: of the pairs with 0.8, eight in ten match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError
from diptych.matching.calibration import EVIDENCE, Calibration, sigmoid
from diptych.matching.encoded import Encoded
from diptych.matching.heads import Side
from diptych.matching.hubness import Banks
from diptych.matching.storage import read_matcher, save_matchers
from diptych.models.checkpoints import HeadSettings
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import decode_all
from diptych.models.heads import Features
from diptych.models.hidden_states import HiddenStates, compute_hidden_states
from diptych.models.modalities import checked_images, checked_texts
from diptych.models.pretrained import Pretrained
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

__all__ = ["Encoded", "Matcher", "load_matcher"]

_BLOCK = 512  # pairs compared in one call of the head


class Matcher(Pretrained):
    """P(match) of images and texts by one head over one dual encoder.

    Load one with `Matcher.from_pretrained` or train one with `diptych.train_matcher`.

    Args:
        encoder: The dual encoder.
        head: The matching head, an `nn.Module` with the interface of `heads.Head`.
        calibration: From evidence to probabilities.
        name: Name of the head in `HEADS`, or `cosine`.
        settings: The arguments with which the head was built, kept in `diptych.json`.
        banks: Embeddings against which hubness is measured; without them it is 0.
        encode: Preprocessed inputs to (embeddings, side), for an encoder that is not a `DualEncoder`.
    """

    hub_tags = ("image-text-matching",)

    def __init__(
        self,
        encoder: DualEncoder,
        head: nn.Module,
        calibration: Calibration,
        *,
        name: str,
        settings: HeadSettings | None = None,
        banks: Banks | None = None,
        encode: Callable[[Features], tuple[Tensor, Side]] | None = None,
    ) -> None:
        self.encoder, self.calibration, self.name, self.settings = encoder, calibration, name, settings or {}
        self.head: Any = head.eval().to(encoder.device)
        self.banks = banks.to(encoder.device) if banks else None
        self._encode = encode

    # loading and saving

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, head: str | None = None, device: str = "auto") -> Matcher:
        """Load a matcher. Only safetensors are read.

        Args:
            name_or_path: `mini`, a run or directory of `diptych train match`, or a directory or hub name of a BLIP
                checkpoint for matching (`BlipForImageTextRetrieval`).
            head: `cosine` (the calibrated cosine), `pair` (reads embeddings only) or `cross` (reads images and texts);
                by default the most accurate one that the directory has.
            device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

        Raises:
            ModelError: There is no such model, it has no matcher or no such head, or its files do not fit together.
        """
        return cls(**vars(read_matcher(name_or_path, head, device)))

    def save_pretrained(self, path: str | Path) -> None:
        """Write the matcher and its dual encoder to a directory that `from_pretrained` reads, as safetensors."""
        self.encoder.save_pretrained(path)
        if self._encode is None:  # a BLIP is saved whole
            save_matchers([self], path)

    def predict(
        self, images: Sequence[Image.Image], texts: Sequence[str], *, prior: float | None = None
    ) -> NDArray[np.float64]:
        """The probability that image i and text i match: (pairs,) float64 in [0, 1].

        An image (the same object) or a text that occurs several times is encoded once.

        Args:
            images: Upright RGB images.
            texts: One text for each image.
            prior: Expected share of matches in (0, 1); by default the one of the calibration (`calibration.prior`).

        Raises:
            ConfigError: Different numbers of images and texts, an empty text or one that is not a string, an item that
                is not a decoded image, or a prior outside (0, 1).
        """
        images, texts = checked_images(images), checked_texts(texts)
        if len(images) != len(texts):
            raise ConfigError(f"{len(images)} images and {len(texts)} texts; give one text for each image")
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise ConfigError(f"text {empty[0]} is empty; describe in words what the image shows")
        if not len(texts):
            return np.empty(0)
        distinct_images = {id(image): image for image in images}
        image_rows = {key: i for i, key in enumerate(distinct_images)}
        text_rows = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return self.probabilities(
            self.encode_images(distinct_images.values()),
            self.encode_texts(list(text_rows)),
            np.array([image_rows[id(image)] for image in images]),
            np.array([text_rows[text] for text in texts]),
            prior=prior,
        )

    # encoding

    def encode_images(self, images: Iterable[Image.Image], batch_size: int = 32) -> Encoded:
        """Encode upright RGB images."""
        images = checked_images(images)
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return Encoded.join([self._forward(self.encoder.preprocess_images(batch)) for batch in batches])

    def encode_texts(self, texts: Sequence[str], batch_size: int = 128) -> Encoded:
        """Encode texts; one without a known word gets an `UnknownWordsWarning`."""
        texts = checked_texts(texts)
        warn_of_unknown_words(self.unknown_texts(texts))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths need little padding
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        prepared = (self.encoder.preprocess_texts(texts[i] for i in batch) for batch in batches)
        encoded = Encoded.join([self._forward(features) for features in prepared])
        return encoded.take(np.argsort(order))

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order: their probabilities say nothing."""
        return self.encoder.unknown_texts(texts)

    def encode_dataset(self, pairs: Pairs, *, batch_size: int = 32, progress: Progress = silent) -> Encoded:
        """Encode the images of a data set, decoding them in background threads.

        Raises:
            DataError: An image cannot be decoded; `doctor.inspect.usable_pairs` leaves such images out.
        """

        def prepare(start: int) -> Features:
            rows = list(pairs[start : start + batch_size])
            images, good = decode_all((row.image for row in rows), self.encoder.image_size)
            if not good.all():
                bad = rows[int(np.argmin(good))].image_id
                raise DataError(f"image '{bad}' cannot be decoded; `diptych data inspect` says why")
            return self.encoder.preprocess_images(images)

        starts = range(0, len(pairs), batch_size)
        batches = progress(prefetch(starts, prepare), len(starts), "encoding images")
        return Encoded.join([self._forward(features) for features in batches])

    def from_embeddings(self, modality: str, embeddings: NDArray[np.floating]) -> Encoded:
        """Encode images or texts from embeddings of the dual encoder, (items, dim).

        Raises:
            ConfigError: The head reads patch and token states, which embeddings do not contain.
        """
        if self.head.needs_states:
            raise ConfigError(f"the head '{self.name}' needs the images themselves; use the head 'pair'")
        copied = torch.from_numpy(np.array(embeddings, np.float32)).to(self.encoder.device)
        return self._encoded(modality, copied, (copied,))

    @torch.inference_mode()
    def _forward(self, features: Features) -> Encoded:
        modality = "image" if "pixel_values" in features else "text"
        if self._encode is not None:
            return self._encoded(modality, *self._encode(features))
        if not self.head.needs_states:
            embeddings = self.encoder.embed(features)
            return self._encoded(modality, embeddings, (embeddings,))
        return self.encode_states(modality, compute_hidden_states(self.encoder, features))

    @torch.inference_mode()
    def encode_states(self, modality: str, states: HiddenStates) -> Encoded:
        """Encode images or texts from hidden states; per-patch and per-token tensors are kept in half precision."""
        side = self.head.encode(modality, states)
        kept = tuple(tensor.half() if tensor.ndim > 2 else tensor for tensor in side)
        return self._encoded(modality, states.embeddings, kept)

    def _encoded(self, modality: str, embeddings: Tensor, side: Side) -> Encoded:
        hubness = self.banks.hubness(modality, embeddings) if self.banks else embeddings.new_zeros(len(embeddings))
        return Encoded(embeddings, hubness, side)

    # comparing

    def logits(
        self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray, *, prior: float | None = None
    ) -> NDArray[np.float64]:
        """Calibrated logits of the pairs (images[rows[i]], texts[columns[i]]): (pairs,).

        Raises:
            ConfigError: The prior is outside (0, 1).
        """
        return self.calibration.logits(self.evidence(images, texts, rows, columns), prior)

    def probabilities(
        self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray, *, prior: float | None = None
    ) -> NDArray[np.float64]:
        """Probabilities of the pairs (images[rows[i]], texts[columns[i]]): (pairs,) in [0, 1].

        Raises:
            ConfigError: The prior is outside (0, 1).
        """
        return sigmoid(self.logits(images, texts, rows, columns, prior=prior))

    def evidence(self, images: Encoded, texts: Encoded, rows: np.ndarray, columns: np.ndarray) -> NDArray[np.float64]:
        """The inputs of the calibration, (pairs, 4); its columns are `calibration.EVIDENCE`."""
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK)]
        parts = [self._compare(images.take(rows[block]), texts.take(columns[block])) for block in blocks]
        return np.concatenate(parts) if parts else np.empty((0, len(EVIDENCE)))

    @torch.inference_mode()
    def _compare(self, images: Encoded, texts: Encoded) -> NDArray[np.float64]:
        head = self.head.pairs(_in_float(images.side), _in_float(texts.side))
        cosine = (images.embeddings * texts.embeddings).sum(-1)
        evidence = torch.stack([head.float(), cosine, images.hubness, texts.hubness], dim=1)  # (pairs, 4)
        return evidence.cpu().numpy().astype(np.float64)


def load_matcher(name: str | Path, head: str | None = None, device: str = "auto") -> Matcher:
    """Load a matcher; short for `Matcher.from_pretrained`.

    Raises:
        ModelError: There is no such model, it has no matcher or no such head, or its files do not fit together.
    """
    return Matcher.from_pretrained(name, head=head, device=device)


def _in_float(side: Side) -> Side:
    return tuple(tensor.float() for tensor in side)
