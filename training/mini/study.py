"""What `mini` learns from: Flickr8k's captions, ImageNet's class names, general words; and MiniLM's view of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from small_text_tower import general_words
from timm.data import ImageNetInfo

from diptych.data.pairs import Pairs
from diptych.models.bundled import PYPI_TEXT_TOWERS

VAL_FRACTION = 0.0833


class Study:
    """The data, and what MiniLM knows of its texts."""

    def __init__(self, train: Pairs, val: Pairs, out: Path) -> None:
        self.train, self.val = train, val
        teacher = SentenceTransformer(PYPI_TEXT_TOWERS["pypi/all-minilm-l6-v2"](), device="cpu")
        self.classes = class_names()
        phrases = [f"a {word}" for word in general_words(teacher.tokenizer)]
        self.texts = [*train.flat_captions()[0], *self.classes, *phrases]
        self.first_class, self.first_phrase = len(train.flat_captions()[0]), len(self.texts) - len(phrases)
        self.meanings = kept(out / "meanings.npy", lambda: teacher.encode(self.texts, show_progress_bar=True))
        class_meanings = self.meanings[self.first_class : self.first_phrase]
        captions = self.meanings[: self.first_class].reshape(len(train), -1, self.meanings.shape[1])
        of_pictures = torch.from_numpy(captions.mean(1))
        # (pictures, classes): too alike for the one to be a negative of the other
        self.alike = (of_pictures @ torch.from_numpy(class_meanings).T > 0.35).numpy()


def split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Training and validation pictures, both of the official training split."""
    pairs = pairs.split("train").with_splits(val=VAL_FRACTION, test=0, of="train")
    return pairs.split("train"), pairs.split("val")


def class_names() -> list[str]:
    """The first of each ImageNet class's names."""
    info = ImageNetInfo()
    return [info.index_to_description(index).split(",")[0] for index in range(1000)]


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` made in an earlier run, or makes now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"new.{path.name}")
        np.save(temporary, make())
        temporary.replace(path)
    return np.load(path)
