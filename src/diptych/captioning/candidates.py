"""Candidate captions: given texts, ranked by a dual encoder; or written ones, among which a matcher chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.captioning.captioner import Captioner
from diptych.data.templates import fill
from diptych.errors import ConfigError
from diptych.matching.matcher import Matcher
from diptych.models.dual_encoder import DualEncoder
from diptych.models.modalities import checked_texts


@dataclass(frozen=True)
class Candidate:
    """A given text for a picture: its cosine, and its probability among the texts, which sum to 1."""

    text: str
    similarity: float
    probability: float


@dataclass(frozen=True)
class Chosen:
    """A written caption: the captioner's score (mean log-probability), and the matcher's P(match) as confidence."""

    text: str
    score: float
    confidence: float


class Ranker:
    """Given texts, encoded once, for pictures that come in batches; settings are those of `rank_candidates`."""

    def __init__(
        self,
        texts: Sequence[str],
        encoder: DualEncoder,
        *,
        templates: Sequence[str] = ("{}",),
        temperature: float | None = None,
    ) -> None:
        texts = checked_texts(texts)
        if not texts or not all(text.strip() for text in texts):
            raise ConfigError("candidates must be texts, at least one and none of them empty")
        if not templates or not all("{}" in template for template in templates):
            raise ConfigError(f"templates are {list(templates)}; give at least one, each with {{}} where the text goes")
        if temperature is not None and not 1e-3 <= temperature <= 1e3:
            raise ConfigError(f"temperature is {temperature}; it must be at least 0.001 and at most 1,000")
        self.texts, self.encoder = texts, encoder
        self.scale = 1 / temperature if temperature else encoder.logit_scale
        filled = encoder.encode_texts(fill(templates, texts)).reshape(len(texts), len(templates), -1)
        means = filled.mean(1)  # (texts, dim)
        self.vectors = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)

    def __call__(self, images: Sequence[Image.Image]) -> list[list[Candidate]]:
        cosines = self.encoder.encode_images(images) @ self.vectors.T  # (pictures, texts)
        logits = cosines * self.scale
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return [
            [Candidate(self.texts[at], float(row[at]), float(chance[at])) for at in np.argsort(-row, kind="stable")]
            for row, chance in zip(cosines, chances, strict=True)
        ]


def rank_candidates(
    images: Sequence[Image.Image],
    texts: Sequence[str],
    encoder: DualEncoder,
    *,
    templates: Sequence[str] = ("{}",),
    temperature: float | None = None,
) -> list[list[Candidate]]:
    """The texts for each picture, likeliest first.

    Probabilities are the softmax of the cosines divided by `temperature`; when not given, by that of the encoder's own
    training (1 / `logit_scale`). With several `templates` a text's vector is the mean of its vectors in each (Radford
    et al. 2021). They say which of *these* texts fits best, not whether it fits: that is what a matcher is for.

    Raises:
        ConfigError: no text, an empty one or one that is not a string, a template without `{}`, or a temperature out
            of range.
    """
    return Ranker(texts, encoder, templates=templates, temperature=temperature)(images)


def choose(
    images: Sequence[Image.Image],
    captioner: Captioner,
    matcher: Matcher,
    *,
    count: int = 5,
    weight: float = 0.1,
    **settings: object,
) -> list[list[Chosen]]:
    """`count` captions that the captioner writes of each picture, best first by what captioner and matcher say of them.

    What is compared is the score plus `weight` times the matcher's logit; the larger it is, the more the order is that
    of the confidence. `settings` are those of `Captioner.caption`. A caption without a word is left out.
    """
    written = captioner.caption(images, count=count, **settings)  # type: ignore[arg-type]
    pairs = [(at, caption) for at, captions in enumerate(written) for caption in captions if caption.text.strip()]
    sure = matcher.predict([images[at] for at, _ in pairs], [caption.text for _, caption in pairs])
    chosen: list[list[Chosen]] = [[] for _ in images]
    for (at, caption), confidence in zip(pairs, sure, strict=True):
        chosen[at].append(Chosen(caption.text, caption.score, float(confidence)))
    return [sorted(of_one, key=lambda each: -standing(each.score, each.confidence, weight)) for of_one in chosen]


def standing(score: float, confidence: float, weight: float = 0.1) -> float:
    """What `choose` puts captions in order by: the captioner's score, and `weight` times the matcher's logit."""
    probability = min(max(confidence, 1e-6), 1 - 1e-6)
    return score + weight * math.log(probability / (1 - probability))
