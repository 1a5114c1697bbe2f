"""The prompter: predicts the text embedding of an image's prompt, and finds prompts for it in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, ModelError, did_you_mean
from diptych.prompting.features import PictureFeatures
from diptych.prompting.library import Prompt, PromptLibrary
from diptych.prompting.phrases.compose import compose, phrase_lists
from diptych.prompting.text_space import TextSpace
from diptych.runtime.progress import Progress, silent

How = Literal["retrieve", "compose", "generate"]
WAYS: tuple[How, ...] = ("retrieve", "compose", "generate")


class Captioner(Protocol):
    """What the prompter asks of a captioner (`diptych.load_captioner`)."""

    def caption(self, images: Sequence[Image.Image], *, count: int = 1) -> list[list[Any]]: ...


class PromptHead(nn.Module):
    """A small network from picture features (batch, width) to unit vectors of a text encoder's space (batch, dim).

    Features are standardised by the mean and spread that `fit` took from the training pictures; one hidden layer, and
    beside it a linear path.
    """

    def __init__(self, width: int, dim: int, hidden: int = 512, dropout: float = 0.3) -> None:
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.body = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )

    def fit(self, features: np.ndarray) -> None:
        """Take mean and spread from (pictures, width) features."""
        values = np.asarray(features, np.float32)
        self.mean.copy_(torch.from_numpy(values.mean(0)))
        self.spread.copy_(torch.from_numpy(values.std(0) + 1e-4))

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(self.body((features - self.mean) / self.spread), dim=-1)


class Prompter:
    """An image-to-prompt model: an image tower and a head that predicts the text embedding of the image's prompt.

    Load one with `load_prompter`, or train one with `diptych train prompt`. The text encoder (`space`), the `library`
    of candidate prompts and the `captioner` are loaded on first use; predicting embeddings needs none of them.

    Attributes:
        pictures: computes the image features.
        head: the trained head.
        name: the name or path it was loaded from.
        settings: the arguments of the head.
    """

    def __init__(
        self,
        pictures: PictureFeatures,
        head: PromptHead,
        *,
        name: str,
        space: Callable[[], TextSpace],
        settings: dict[str, Any] | None = None,
        library: Callable[[], PromptLibrary] | None = None,
        captioner: Callable[[], Captioner] | None = None,
    ) -> None:
        self.pictures, self.name, self.settings = pictures, name, settings or {}
        self.head: Any = head.eval().to(pictures.device)
        self._space, self._library, self._captioner = space, library, captioner

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
        return self.predict_features(self.pictures.encode(images, batch_size))

    def predict_pairs(self, pairs: Pairs, *, progress: Progress = silent) -> np.ndarray:
        """Like `predict`, for the images of a data set; image features are cached on disk."""
        return self.predict_features(self.pictures.stored(pairs, progress=progress)[:, 0])

    @torch.inference_mode()
    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Like `predict`, from precomputed features of shape (images, width)."""
        inputs = torch.from_numpy(np.array(features, np.float32)).to(self.pictures.device)
        return self.head(inputs).cpu().numpy()

    # prompts

    def say(
        self,
        images: Sequence[Image.Image],
        *,
        how: How = "retrieve",
        count: int = 1,
        library: PromptLibrary | Sequence[str] | None = None,
        captioner: Captioner | None = None,
        lists: dict[str, list[str]] | None = None,
    ) -> list[list[Prompt]]:
        """At most `count` prompts for each image, best first.

        `retrieve` returns the nearest prompts of `library` (texts or a `PromptLibrary`; by default the model's own).
        `compose` starts from captions, or from a subject if there is no captioner, and appends phrases from `lists`.
        `generate` writes prompts with a captioner and ranks them by cosine with the predicted embedding.

        Raises:
            ConfigError: `how` is unknown, or `count` is below 1.
            ModelError: `how` is `generate` and there is no captioner.
        """
        if how not in WAYS:
            raise ConfigError(f"unknown method '{how}'; {did_you_mean(how, WAYS)}")
        if count < 1:
            raise ConfigError(f"count is {count}; it must be at least 1")
        if not len(images):
            return []
        predicted = self.predict(images)
        if how == "retrieve":
            return self._prompt_library(library).nearest(predicted, count)
        captions = self._captions(images, count, captioner, needed=how == "generate")
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
        self, images: Sequence[Image.Image], count: int, captioner: Captioner | None, *, needed: bool
    ) -> list[list[str]]:
        """At most `count` captions of each image; one empty caption if there is no captioner and it is not `needed`."""
        if captioner is None and self._captioner is None and not needed:
            return [[""] for _ in images]
        written = (captioner or self.captioner).caption(images, count=count)
        return [[caption.text for caption in captions] for captions in written]


def _by_image(rows: Sequence[int], prompts: Sequence[Prompt], count: int) -> list[list[Prompt]]:
    """The distinct prompts of each of `count` images, best first."""
    found: list[dict[str, Prompt]] = [{} for _ in range(count)]
    for row, prompt in zip(rows, prompts, strict=True):
        found[row][prompt.text] = prompt
    return [sorted(each.values(), key=lambda prompt: -prompt.score) for each in found]
