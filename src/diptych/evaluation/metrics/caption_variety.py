"""Diversity of generated captions: length, vocabulary, repetition, and novelty against the training captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class CaptionVariety:
    """Diversity of a set of captions, one for each image, tokenized without punctuation (`metrics.ptb`).

    Attributes:
        captions: number of captions.
        length: mean number of words.
        vocabulary: number of distinct words.
        repeated: fraction of captions, 0 to 1, that another image has too, word for word.
        novel: fraction of captions, 0 to 1, that are not among the training captions; None if those are not known.
    """

    captions: int
    length: float
    vocabulary: int
    repeated: float
    novel: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """All numbers by name."""
        return asdict(self)


def caption_variety(
    captions: Sequence[Sequence[str]], training: Iterable[Sequence[str]] | None = None
) -> CaptionVariety:
    """Measure the diversity of captions.

    Args:
        captions: the words of each caption.
        training: the words of each training caption, if known.

    Raises:
        ValueError: there is no caption.

    Three captions of two words; two are equal, and one is among the training captions:

    >>> caption_variety([["a", "dog"], ["a", "dog"], ["two", "cats"]], training=[["two", "cats"]])
    CaptionVariety(captions=3, length=2.0, vocabulary=4, repeated=0.6666666666666666, novel=0.6666666666666666)
    """
    if not captions:
        raise ValueError("there is no caption to measure; give at least one")
    token_lists = [tuple(words) for words in captions]
    times = Counter(token_lists)
    known = None if training is None else {tuple(words) for words in training}
    return CaptionVariety(
        captions=len(token_lists),
        length=sum(map(len, token_lists)) / len(token_lists),
        vocabulary=len({word for words in token_lists for word in words}),
        repeated=sum(times[words] > 1 for words in token_lists) / len(token_lists),
        novel=None if known is None else sum(words not in known for words in token_lists) / len(token_lists),
    )
