"""The words that a small captioner knows: captions to numbers and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PAD, START, END, UNKNOWN = range(4)
_SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_WORD = re.compile(r"\w+(?:-\w+)*|'\w+")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; what follows an apostrophe is a word: `dog 's`.

    >>> words_of("The dog's T-shirt .")
    ['the', 'dog', "'s", 't-shirt']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def text_of(words: Iterable[str]) -> str:
    """Words as a text: joined by spaces, but for those that begin with an apostrophe."""
    return " ".join(words).replace(" '", "'")


class Words:
    """Numbered words: `Words.learn` gathers them from captions, `Words(list)` takes them as they were kept."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.numbers = {word: number for number, word in enumerate(self.words, len(_SPECIAL))}

    @classmethod
    def learn(cls, captions: Iterable[str], min_count: int = 5) -> Words:
        """Those words that stand at least `min_count` times in the captions, the most frequent first."""
        counts = Counter(word for caption in captions for word in words_of(caption))
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        """How many numbers there are, the special ones among them."""
        return len(_SPECIAL) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's words, without start and end."""
        return [self.numbers.get(word, UNKNOWN) for word in words_of(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers; special ones are left out."""
        first = len(_SPECIAL)
        return text_of(self.words[number - first] for number in numbers if number >= first)

    def batch(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """(captions, length) int64: start, at most `max_tokens` words, end, and padding."""
        rows = [[START, *self.encode(caption)[:max_tokens], END] for caption in captions]
        numbers = torch.full((len(rows), max(map(len, rows))), PAD)
        for row, line in zip(numbers, rows, strict=True):
            row[: len(line)] = torch.tensor(line)
        return numbers
