"""Candidate captions: given texts ranked by a dual encoder, or generated captions re-ranked by a matcher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.captioning.captioner import Captioner
from diptych.captioning.strategies import GenerationConfig
from diptych.data.templates import fill
from diptych.errors import ConfigError
from diptych.matching.matcher import Matcher
from diptych.models.cosine import normalize
from diptych.models.dual_encoder import DualEncoder
from diptych.models.modalities import checked_texts
from diptych.models.unknown_words import warn_of_unknown_words


@dataclass(frozen=True)
class Candidate:
    """A given text for an image.

    Attributes:
        text: The text.
        similarity: Its cosine with the image, in [-1, 1].
        probability: Its softmax probability among the given texts, which sum to 1.
    """

    text: str
    similarity: float
    probability: float


@dataclass(frozen=True)
class Chosen:
    """A generated caption.

    Attributes:
        text: The caption.
        score: The captioner's mean log-probability, at most 0.
        confidence: The matcher's P(match), in [0, 1].
    """

    text: str
    score: float
    confidence: float


class Ranker:
    """Given texts, embedded once, for images that arrive in batches.

    Takes the arguments of `rank_candidates` and raises the same errors.
    """

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
        warn_of_unknown_words(encoder.unknown_texts(texts))  # the words of a template are known
        filled = encoder.encode_texts(fill(templates, texts)).reshape(len(texts), len(templates), -1)
        self.embeddings = normalize(filled.mean(1))  # (texts, dim)

    def __call__(self, images: Sequence[Image.Image]) -> list[list[Candidate]]:
        """The texts for each image, most probable first."""
        cosines = self.encoder.encode_images(images) @ self.embeddings.T  # (images, texts)
        logits = cosines * self.scale
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        return [
            [Candidate(self.texts[i], float(row[i]), float(chances[i])) for i in np.argsort(-row, kind="stable")]
            for row, chances in zip(cosines, probabilities, strict=True)
        ]


def rank_candidates(
    images: Sequence[Image.Image],
    texts: Sequence[str],
    encoder: DualEncoder,
    *,
    templates: Sequence[str] = ("{}",),
    temperature: float | None = None,
) -> list[list[Candidate]]:
    """The texts for each image, most probable first.

    Probabilities are the softmax of the cosines over *these* texts. They say which text fits best, not whether it fits;
    use a matcher for that.

    Args:
        images: Upright RGB images.
        texts: The candidates.
        encoder: The dual encoder that compares them.
        templates: Sentences with `{}` for the text. With several, a text's embedding is the mean over the templates
            (Radford et al. 2021).
        temperature: Divides the cosines before the softmax; by default 1 / `logit_scale` of the encoder.

    Raises:
        ConfigError: No text, an empty one or one that is not a string, a template without `{}`, or a temperature out
            of range.
    """
    return Ranker(texts, encoder, templates=templates, temperature=temperature)(images)


def choose(
    images: Sequence[Image.Image],
    captioner: Captioner,
    matcher: Matcher,
    generation: GenerationConfig | None = None,
    *,
    weight: float = 0.1,
    prefix: str = "",
    batch_size: int = 16,
) -> list[list[Chosen]]:
    """Generate several captions of each image and order them by captioner and matcher together, best first.

    Captions are ordered by `combined_score`. Captions without a word are left out.

    Args:
        images: Upright RGB images.
        captioner: The model that generates captions.
        matcher: The model that compares them with the image.
        generation: Decoding strategy and number of captions for each image; by default beam search for five captions.
        weight: Weight of the matcher's logit; the larger, the more the confidence decides the order.
        prefix: Text that every caption begins with.
        batch_size: Images in one forward pass.

    Raises:
        ConfigError: A setting is out of its range.
    """
    generation = generation or GenerationConfig(count=5)
    captions = captioner.caption_with(images, generation, prefix=prefix, batch_size=batch_size)
    pairs = [(i, caption) for i, group in enumerate(captions) for caption in group if caption.text.strip()]
    confidences = matcher.predict([images[i] for i, _ in pairs], [caption.text for _, caption in pairs])
    chosen: list[list[Chosen]] = [[] for _ in images]
    for (i, caption), confidence in zip(pairs, confidences, strict=True):
        chosen[i].append(Chosen(caption.text, caption.score, float(confidence)))
    return [
        sorted(group, key=lambda choice: -combined_score(choice.score, choice.confidence, weight)) for group in chosen
    ]


def combined_score(score: float, confidence: float, weight: float = 0.1) -> float:
    """The captioner's score plus `weight` times the logit of the matcher's confidence; `choose` sorts by it.

    >>> combined_score(-1.0, 0.5)
    -1.0
    """
    probability = min(max(confidence, 1e-6), 1 - 1e-6)
    return score + weight * math.log(probability / (1 - probability))
