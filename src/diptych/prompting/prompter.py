"""The prompter: from a picture to the vector that its prompt would have, and from there to prompts in words."""

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
from diptych.models.model_upload import upload_model
from diptych.prompting.features import PictureFeatures
from diptych.prompting.head import PromptHead
from diptych.prompting.library import Prompt, PromptLibrary
from diptych.prompting.phrases.compose import compose, phrase_lists
from diptych.prompting.storage import read_prompter, save_library, save_prompter
from diptych.prompting.text_space import TextSpace
from diptych.runtime.progress import Progress, silent

__all__ = ["WAYS", "Captioner", "How", "PromptHead", "Prompter", "load_prompter"]

How = Literal["retrieve", "compose", "generate"]
WAYS: tuple[How, ...] = ("retrieve", "compose", "generate")


class Captioner(Protocol):
    """What the prompter asks of a captioner (`diptych.load_captioner`)."""

    def caption(self, images: Sequence[Image.Image], *, count: int = 1) -> list[list[Any]]: ...


class Prompter:
    """A picture tower, a trained head, and the text encoder into whose space it predicts.

    `load_prompter` reads one, the recipe `prompt` trains one. The text encoder (`space`), the `library` of known
    prompts and the `captioner` are loaded when they are first needed: predicting a vector needs none of them.
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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        licence: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the prompter to the Hugging Face hub and return its URL; `diptych.push` also writes a full model card.

        Args:
            repo_id: `USER/NAME`; created if it does not exist.
            private: Whether a new repository is private.
            licence: Hub identifier of the licence (`apache-2.0`).
            commit_message: Message of the commit.
            token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.

        Raises:
            ModelError: No licence is given, or the hub refuses.
        """
        return upload_model(
            self.save_pretrained,
            repo_id,
            private=private,
            licence=licence,
            commit_message=commit_message,
            token=token,
            tags=["image-to-prompt"],
        )

    @cached_property
    def space(self) -> TextSpace:
        return self._space()

    @cached_property
    def library(self) -> PromptLibrary:
        """The prompts that it was trained on; for a prompter that came without, the shipped list of subjects."""
        return self._library() if self._library else PromptLibrary.of(phrase_lists()["subject"], self.space)

    @property
    def has_library(self) -> bool:
        """Whether it came with prompts of its own."""
        return self._library is not None

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner that lies beside it.

        Raises:
            ModelError: there is none.
        """
        if self._captioner is None:
            raise ModelError(
                f"prompter '{self.name}' has no captioner to generate prompts with; give one "
                "(diptych.load_captioner), or let it retrieve or compose"
            )
        return self._captioner()

    # predicting

    def predict(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """The embedding of each picture's prompt: (pictures, dim) float32 unit vectors in the text encoder's space."""
        return self.predict_features(self.pictures.encode(images, batch_size))

    def predict_pairs(self, pairs: Pairs, *, progress: Progress = silent) -> np.ndarray:
        """As `predict` for the pictures of a data set, whose features are kept in the cache."""
        return self.predict_features(self.pictures.stored(pairs, progress=progress)[:, 0])

    @torch.inference_mode()
    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """As `predict`, from (pictures, width) features that were computed before."""
        known = torch.from_numpy(np.array(features, np.float32)).to(self.pictures.device)
        return self.head(known).cpu().numpy()

    # saying

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
        """Prompts for each picture, best first: at most `count`.

        `retrieve` takes the nearest of a library (texts or a `PromptLibrary`; its own when not given). `compose`
        begins with captions, or with a subject where there is no captioner, and adds phrases of `lists`. `generate`
        has a captioner write prompts, which are put in order by their nearness to the predicted vector.

        Raises:
            ConfigError: there is no such way, or `count` is below 1.
            ModelError: `generate` without a captioner.
        """
        if how not in WAYS:
            raise ConfigError(f"no way to say a prompt is called '{how}'; {did_you_mean(how, WAYS)}")
        if count < 1:
            raise ConfigError(f"count is {count}; ask for at least 1 prompt")
        if not len(images):
            return []
        predicted = self.predict(images)
        if how == "retrieve":
            return self._known(library).nearest(predicted, count)
        captions = self._captions(images, count, captioner, needed=how == "generate")
        rows = [row for row, texts in enumerate(captions) for _ in texts]
        texts = [text for texts in captions for text in texts]
        if how == "compose":
            said = compose(predicted[rows], texts, self.space, lists)
        else:
            scores = np.sum(self.space.encode(texts) * predicted[rows], axis=1)
            said = [Prompt(text, float(score)) for text, score in zip(texts, scores, strict=True)]
        return _by_picture(rows, said, len(images))

    def _known(self, library: PromptLibrary | Sequence[str] | None) -> PromptLibrary:
        if library is None:
            return self.library
        return library if isinstance(library, PromptLibrary) else PromptLibrary.of(library, self.space)

    def _captions(
        self, images: Sequence[Image.Image], count: int, captioner: Captioner | None, *, needed: bool
    ) -> list[list[str]]:
        """At most `count` captions of each picture; an empty one where nobody can caption and it is not `needed`."""
        if captioner is None and self._captioner is None and not needed:
            return [[""] for _ in images]
        written = (captioner or self.captioner).caption(images, count=count)
        return [[caption.text for caption in captions] for captions in written]


def _by_picture(rows: Sequence[int], prompts: Sequence[Prompt], pictures: int) -> list[list[Prompt]]:
    """The different prompts of each picture, best first."""
    found: list[dict[str, Prompt]] = [{} for _ in range(pictures)]
    for row, prompt in zip(rows, prompts, strict=True):
        found[row][prompt.text] = prompt
    return [sorted(each.values(), key=lambda prompt: -prompt.score) for each in found]


def load_prompter(name: str | Path = "mini", device: str = "auto") -> Prompter:
    """Load a prompter; short for `Prompter.from_pretrained`.

    Raises:
        ModelError: There is no such model, it has no prompter, or its files do not fit together.
    """
    return Prompter.from_pretrained(name, device=device)
