"""What a service says of pictures: captions with all that is known of them, and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from PIL import Image

from diptych.errors import ConfigError
from diptych.models.modalities import several_texts
from diptych.serving.loaded_models import LoadedModels
from diptych.serving.results import Alternative, Captioned, GeneratedPrompt, Ranked


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ConfigError: one is empty, or is not a string.
    """
    listed = several_texts(texts)
    for at, text in enumerate(listed):
        if not text.strip():
            raise ConfigError(f"text {at} is empty; say in words what the picture shows")
    return listed


def captions(
    loaded: LoadedModels,
    pictures: Sequence[Image.Image],
    *,
    candidates: Sequence[str] = (),
    choose: bool = False,
    **settings: Any,
) -> list[Captioned]:
    """A caption for each picture, its alternatives and the candidates; see `Service.caption`."""
    if choose:
        loaded.get("matcher")  # that there is none is said before anything is written
    with loaded.using("captioner") as captioner:
        written = captioner.caption(pictures, **settings)
    sure = _confidences(loaded, pictures, [[each.text for each in texts] for texts in written])
    told = [
        tuple(Alternative(c.text, float(c.score), p) for c, p in zip(texts, found, strict=True))
        for texts, found in zip(written, sure, strict=True)
    ]
    if choose:
        from diptych.captioning.candidates import combined_score

        told = [tuple(sorted(each, key=lambda c: -combined_score(c.score, c.confidence or 0.0))) for each in told]
    ranked = _ranked(loaded, pictures, candidates)
    return [Captioned(each[0].text, each[0].confidence, each, order) for each, order in zip(told, ranked, strict=True)]


def prompts(
    loaded: LoadedModels, pictures: Sequence[Image.Image], *, how: str, **settings: Any
) -> list[list[GeneratedPrompt]]:
    """Prompts for each picture; a captioner gives those that are composed or generated their subject."""
    writes = how != "retrieve" and loaded.has("captioner")
    with (
        loaded.using("prompter") as prompter,
        loaded.using("captioner") if writes else nullcontext() as captioner,
    ):
        said = prompter.say(pictures, how=how, captioner=captioner, **settings)
    return [[GeneratedPrompt(prompt.text, float(prompt.score)) for prompt in each] for each in said]


def _confidences(
    loaded: LoadedModels, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]
) -> list[list[float | None]]:
    """What the matcher says of each picture's texts; None for all without a matcher, and for an empty text."""
    if not loaded.has("matcher"):
        return [[None] * len(each) for each in texts]
    pairs = [(image, text) for image, each in zip(pictures, texts, strict=True) for text in each if text.strip()]
    with loaded.using("matcher") as matcher:
        found = iter(matcher.predict([image for image, _ in pairs], [text for _, text in pairs]))
    return [[float(next(found)) if text.strip() else None for text in each] for each in texts]


def _ranked(loaded: LoadedModels, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[tuple[Ranked, ...]]:
    if not texts:
        return [()] * len(pictures)
    from diptych.captioning.candidates import rank_candidates

    with loaded.using("encoder") as encoder:
        found = rank_candidates(pictures, list(texts), encoder)
    return [tuple(Ranked(c.text, float(c.similarity), float(c.probability)) for c in each) for each in found]
