"""Training data of `mini`: Flickr8k captions, ImageNet class names, common words, and their MiniLM embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from small_text_tower import common_words
from timm.data import ImageNetInfo

from diptych.data.pairs import Pairs
from diptych.models.bundled import PYPI_TEXT_TOWERS

VAL_FRACTION = 0.0833
SIMILAR = 0.35  # cosine above which a class is not a negative of an image


class TrainingData:
    """Images with captions, and the MiniLM embeddings of all training texts: captions, class names, phrases."""

    def __init__(self, train: Pairs, val: Pairs, out: Path) -> None:
        self.train, self.val = train, val
        minilm = SentenceTransformer(PYPI_TEXT_TOWERS["pypi/all-minilm-l6-v2"](), device="cpu")
        self.classes = class_names()
        phrases = [f"a {word}" for word in common_words(minilm.tokenizer)]
        captions = train.flat_captions()[0]
        self.texts = [*captions, *self.classes, *phrases]
        self.first_class, self.first_phrase = len(captions), len(self.texts) - len(phrases)
        self.embeddings = cached(out / "meanings.npy", lambda: minilm.encode(self.texts, show_progress_bar=True))
        of_classes = torch.from_numpy(self.embeddings[self.first_class : self.first_phrase])
        of_captions = self.embeddings[: self.first_class].reshape(len(train), -1, self.embeddings.shape[1])
        of_images = torch.from_numpy(of_captions.mean(1))
        self.similar = (of_images @ of_classes.T > SIMILAR).numpy()  # (images, classes)


def split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Training and validation images, both from the official training split."""
    pairs = pairs.split("train").with_splits(val=VAL_FRACTION, test=0, of="train")
    return pairs.split("train"), pairs.split("val")


def class_names() -> list[str]:
    """The first name of each ImageNet class."""
    info = ImageNetInfo()
    return [info.index_to_description(index).split(",")[0] for index in range(1000)]


def cached(path: Path, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """The array at `path`, computed if the file does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"new.{path.name}")
        np.save(temporary, compute())
        temporary.replace(path)
    return np.load(path)
