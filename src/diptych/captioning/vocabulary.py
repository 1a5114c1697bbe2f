"""The word vocabulary of a caption decoder: captions to token ids and back."""

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
    """The lower-cased words of a text, without punctuation. A suffix after an apostrophe is a word of its own.

    >>> words_of("The dog's T-shirt .")
    ['the', 'dog', "'s", 't-shirt']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


def text_of(words: Iterable[str]) -> str:
    """Words joined by spaces, except before an apostrophe; the inverse of `words_of` for lower-case texts.

    >>> text_of(["the", "dog", "'s", "ball"])
    "the dog's ball"
    """
    return " ".join(words).replace(" '", "'")


class Words:
    """A vocabulary of words. `Words.learn` builds one from captions; the constructor takes the words in id order."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.numbers = {word: number for number, word in enumerate(self.words, len(_SPECIAL))}

    @classmethod
    def learn(cls, captions: Iterable[str], min_count: int = 5) -> Words:
        """The words that occur at least `min_count` times in `captions`, most frequent first."""
        counts = Counter(word for caption in captions for word in words_of(caption))
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        """The vocabulary size, special tokens included."""
        return len(_SPECIAL) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without start and end."""
        return [self.numbers.get(word, UNKNOWN) for word in words_of(text)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of token ids; special tokens are skipped."""
        first = len(_SPECIAL)
        return text_of(self.words[number - first] for number in numbers if number >= first)

    def batch(self, captions: Sequence[str], max_tokens: int) -> Tensor:
        """Padded token ids with start and end, (captions, length) int64; captions are cut after `max_tokens` words."""
        rows = [[START, *self.encode(caption)[:max_tokens], END] for caption in captions]
        tokens = torch.full((len(rows), max(map(len, rows))), PAD)
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        return tokens
