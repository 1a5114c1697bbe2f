"""How captions differ from each other and from those that were learnt: length, vocabulary, novelty, repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class CaptionVariety:
    """Figures of a set of captions, one a picture, as words without punctuation (`diptych.evaluation.metrics.ptb`).

    `length` is the mean number of words, `vocabulary` the number of different words. `novel` is the share of captions,
    0 to 1, that are none of the training captions, word for word; None where those are not known. `repeated` is the
    share of captions that another picture got too.
    """

    captions: int
    length: float
    vocabulary: int
    repeated: float
    novel: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def caption_variety(
    captions: Sequence[Sequence[str]], training: Iterable[Sequence[str]] | None = None
) -> CaptionVariety:
    """The figures of captions given as words; `training` holds those that they may have been learnt from.

    Raises:
        ValueError: there is no caption.

    Three captions of 2 words on average; two are the same, and one stands among the training captions:

    >>> caption_variety([["a", "dog"], ["a", "dog"], ["two", "cats"]], training=[["two", "cats"]])
    CaptionVariety(captions=3, length=2.0, vocabulary=4, repeated=0.6666666666666666, novel=0.6666666666666666)
    """
    if not captions:
        raise ValueError("there is no caption to measure")
    said = [tuple(words) for words in captions]
    times = Counter(said)
    known = None if training is None else {tuple(words) for words in training}
    return CaptionVariety(
        captions=len(said),
        length=sum(map(len, said)) / len(said),
        vocabulary=len({word for words in said for word in words}),
        repeated=sum(times[words] > 1 for words in said) / len(said),
        novel=None if known is None else sum(words not in known for words in said) / len(said),
    )
