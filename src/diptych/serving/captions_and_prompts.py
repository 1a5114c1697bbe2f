"""Captions with confidences and ranked candidates, and prompts: each made by several models of a service."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from PIL import Image

from diptych.errors import ConfigError
from diptych.models.modalities import as_texts
from diptych.serving.loaded_models import LoadedModels
from diptych.serving.results import Alternative, CaptionedImage, GeneratedPrompt, RankedCandidate

if TYPE_CHECKING:
    from diptych.captioning.strategies import Caption
    from diptych.prompting.library import PromptLibrary
    from diptych.serving.parameters import PromptMethod


def non_empty_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ConfigError: a text is empty, or is not a string.
    """
    listed = as_texts(texts)
    for index, text in enumerate(listed):
        if not text.strip():
            raise ConfigError(f"text {index} is empty; describe the image in words")
    return listed


def combine_captions(
    loaded: LoadedModels,
    images: Sequence[Image.Image],
    captions: Sequence[Sequence[Caption]],
    *,
    candidates: Sequence[str] = (),
    choose: bool = False,
) -> list[CaptionedImage]:
    """The generated captions of each image with their confidences, and the candidates ranked; see `Service.caption`."""
    confidences = _confidences(loaded, images, [[caption.text for caption in row] for row in captions])
    alternatives = [
        [Alternative(c.text, float(c.score), p) for c, p in zip(row, probabilities, strict=True)]
        for row, probabilities in zip(captions, confidences, strict=True)
    ]
    if choose:
        from diptych.captioning.candidates import combined_score

        alternatives = [
            sorted(row, key=lambda caption: -combined_score(caption.score, caption.confidence or 0.0))
            for row in alternatives
        ]
    ranked = _rank(loaded, images, candidates)
    return [
        CaptionedImage(row[0].text, row[0].confidence, tuple(row), order)
        for row, order in zip(alternatives, ranked, strict=True)
    ]


def make_prompts(
    loaded: LoadedModels,
    images: Sequence[Image.Image],
    *,
    how: PromptMethod,
    count: int,
    library: PromptLibrary | Sequence[str] | None,
) -> list[list[GeneratedPrompt]]:
    """Prompts for each image; the captioner provides the subject of composed and generated ones."""
    needs_captioner = how != "retrieve" and loaded.has("captioner")
    with (
        loaded.using("prompter") as prompter,
        loaded.using("captioner") if needs_captioner else nullcontext() as captioner,
    ):
        prompts = prompter.prompt(images, how=how, captioner=captioner, k=count, library=library)
    return [[GeneratedPrompt(prompt.text, float(prompt.score)) for prompt in row] for row in prompts]


def _confidences(
    loaded: LoadedModels, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]
) -> list[list[float | None]]:
    """The matcher's P(match) of each image's texts; None for all without a matcher, and for an empty text."""
    if not loaded.has("matcher"):
        return [[None] * len(row) for row in texts]
    pairs = [(image, text) for image, row in zip(images, texts, strict=True) for text in row if text.strip()]
    with loaded.using("matcher") as matcher:
        probabilities = iter(matcher.predict([image for image, _ in pairs], [text for _, text in pairs]))
    return [[float(next(probabilities)) if text.strip() else None for text in row] for row in texts]


def _rank(
    loaded: LoadedModels, images: Sequence[Image.Image], candidates: Sequence[str]
) -> list[tuple[RankedCandidate, ...]]:
    if not candidates:
        return [()] * len(images)
    from diptych.captioning.candidates import rank_candidates

    with loaded.using("encoder") as encoder:
        ranked = rank_candidates(images, list(candidates), encoder)
    return [tuple(RankedCandidate(c.text, float(c.similarity), float(c.probability)) for c in row) for row in ranked]
