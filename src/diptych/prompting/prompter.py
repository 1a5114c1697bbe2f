"""The prompter: predicts the text embedding of an image's prompt, and finds prompts for it in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, ModelError, did_you_mean
from diptych.models.checkpoints import HeadSettings
from diptych.models.modalities import checked_images
from diptych.models.pretrained import Pretrained
from diptych.prompting.features import ImageFeatures
from diptych.prompting.head import PromptHead
from diptych.prompting.library import Prompt, PromptLibrary
from diptych.prompting.phrases.compose import compose, phrase_lists
from diptych.prompting.storage import read_prompter, save_library, save_prompter
from diptych.prompting.text_space import TextSpace
from diptych.runtime.progress import Progress, silent

__all__ = ["PROMPT_METHODS", "Captioner", "PromptHead", "PromptMethod", "Prompter", "load_prompter"]

PromptMethod = Literal["retrieve", "compose", "generate"]
PROMPT_METHODS: tuple[PromptMethod, ...] = ("retrieve", "compose", "generate")


class GeneratedText(Protocol):
    """A caption: its text is all that the prompter reads."""

    @property
    def text(self) -> str:
        """The text."""


class Captioner(Protocol):
    """What the prompter asks of a captioner (`diptych.load_captioner`)."""

    def caption(self, images: Sequence[Image.Image], *, count: int = 1) -> Sequence[Sequence[GeneratedText]]:
        """At most `count` captions of each image, best first."""


class Prompter(Pretrained):
    """An image-to-prompt model: an image tower and a head that predicts the text embedding of the image's prompt.

    Load one with `load_prompter`, or train one with `diptych train prompt`. The text encoder (`space`), the `library`
    of candidate prompts and the `captioner` are loaded on first use; predicting embeddings needs none of them.

    Attributes:
        image_features: computes the image features.
        head: the trained head.
        name: the name or path it was loaded from.
        settings: the arguments of the head.
    """

    hub_tags = ("image-to-prompt",)

    def __init__(
        self,
        image_features: ImageFeatures,
        head: PromptHead,
        *,
        name: str,
        space: Callable[[], TextSpace],
        settings: HeadSettings | None = None,
        library: Callable[[], PromptLibrary] | None = None,
        captioner: Callable[[], Captioner] | None = None,
    ) -> None:
        self.image_features, self.name, self.settings = image_features, name, settings or {}
        self.head: Any = head.eval().to(image_features.device)
        self._space, self._library, self._captioner = space, library, captioner

    # loading and saving

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "mini", *, device: str = "auto") -> Prompter:
        """Load a prompter. Only safetensors are read.

        Args:
            name_or_path: `mini`, a run or directory of `diptych train prompt`, or the hub name of a prompter.
            device: `auto`, `cpu`, `cuda`, `mps` or any other torch device.

        Raises:
            ModelError: There is no such model, it has no prompter, or its files do not fit together.
        """
        return cls(**vars(read_prompter(name_or_path, device)))

    def save_pretrained(self, path: str | Path) -> None:
        """Write the prompter to a directory that `from_pretrained` reads, with its image tower and its library.

        In the directory of its dual encoder it is added to the files there.
        """
        save_prompter(self, path)
        if self.has_library:
            save_library(self.library, path)

    @cached_property
    def space(self) -> TextSpace:
        """The text encoder whose embeddings are predicted."""
        return self._space()

    @cached_property
    def library(self) -> PromptLibrary:
        """The prompts stored with the model, or else the built-in list of subjects."""
        return self._library() if self._library else PromptLibrary.of(phrase_lists()["subject"], self.space)

    @property
    def has_library(self) -> bool:
        """Whether prompts are stored with the model."""
        return self._library is not None

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner stored with the model.

        Raises:
            ModelError: there is none.
        """
        if self._captioner is None:
            raise ModelError(
                f"prompter '{self.name}' has no captioner to generate prompts with; pass one "
                "(diptych.load_captioner), or use 'retrieve' or 'compose'"
            )
        return self._captioner()

    # prediction

    def predict(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """Predict the text embedding of each image's prompt: (images, dim) float32 unit vectors."""
        return self.predict_features(self.image_features.encode(images, batch_size))

    def predict_pairs(self, pairs: Pairs, *, progress: Progress = silent) -> np.ndarray:
        """Like `predict`, for the images of a data set; image features are cached on disk."""
        return self.predict_features(self.image_features.cached(pairs, progress=progress)[:, 0])

    @torch.inference_mode()
    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Like `predict`, from precomputed features of shape (images, width)."""
        inputs = torch.from_numpy(np.array(features, np.float32)).to(self.image_features.device)
        return self.head(inputs).cpu().numpy()

    # prompts

    def prompt(
        self,
        images: Sequence[Image.Image],
        *,
        how: PromptMethod = "retrieve",
        k: int = 1,
        library: PromptLibrary | Sequence[str] | None = None,
        captioner: Captioner | None = None,
        lists: dict[str, list[str]] | None = None,
    ) -> list[list[Prompt]]:
        """At most `k` prompts for each image, best first.

        `retrieve` returns the nearest prompts of `library` (texts or a `PromptLibrary`; by default the model's own).
        `compose` starts from captions, or from a subject if there is no captioner, and appends phrases from `lists`.
        `generate` writes prompts with a captioner and ranks them by cosine with the predicted embedding.

        Raises:
            ConfigError: `how` is unknown, or `k` is below 1.
            ModelError: `how` is `generate` and there is no captioner.
        """
        if how not in PROMPT_METHODS:
            raise ConfigError(f"unknown method '{how}'; {did_you_mean(how, PROMPT_METHODS)}")
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        images = checked_images(images)
        if not images:
            return []
        predicted = self.predict(images)
        if how == "retrieve":
            return self._prompt_library(library).nearest(predicted, k)
        captions = self._captions(images, k, captioner, needed=how == "generate")
        rows = [row for row, texts in enumerate(captions) for _ in texts]
        texts = [text for texts in captions for text in texts]
        if how == "compose":
            prompts = compose(predicted[rows], texts, self.space, lists)
        else:
            scores = np.sum(self.space.encode(texts) * predicted[rows], axis=1)
            prompts = [Prompt(text, float(score)) for text, score in zip(texts, scores, strict=True)]
        return _by_image(rows, prompts, len(images))

    def _prompt_library(self, library: PromptLibrary | Sequence[str] | None) -> PromptLibrary:
        if library is None:
            return self.library
        return library if isinstance(library, PromptLibrary) else PromptLibrary.of(library, self.space)

    def _captions(
        self, images: Sequence[Image.Image], k: int, captioner: Captioner | None, *, needed: bool
    ) -> list[list[str]]:
        """At most `k` captions of each image; one empty caption if there is no captioner and it is not `needed`."""
        if captioner is None and self._captioner is None and not needed:
            return [[""] for _ in images]
        written = (captioner or self.captioner).caption(images, count=k)
        return [[caption.text for caption in captions] for captions in written]


def _by_image(rows: Sequence[int], prompts: Sequence[Prompt], images: int) -> list[list[Prompt]]:
    """The distinct prompts of each of `images` images, best first."""
    distinct: list[dict[str, Prompt]] = [{} for _ in range(images)]
    for row, prompt in zip(rows, prompts, strict=True):
        distinct[row][prompt.text] = prompt
    return [sorted(own.values(), key=lambda prompt: -prompt.score) for own in distinct]


def load_prompter(name: str | Path = "mini", device: str = "auto") -> Prompter:
    """Load a prompter; short for `Prompter.from_pretrained`.

    Raises:
        ModelError: There is no such model, it has no prompter, or its files do not fit together.
    """
    return Prompter.from_pretrained(name, device=device)
