"""Unknown words: texts that a text tower cannot read, because its vocabulary has none of their words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from diptych.models.truncation import token_limit, within_reach

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Module
    from tokenizers import Tokenizer

_BLOCK = 1024  # texts tokenized at once
_NAMED, _CHARACTERS = 5, 60  # texts that a warning names, and characters of each


class UnknownWordsWarning(UserWarning):
    """The model knows no word of some texts, so that their embeddings say nothing about them."""


class ReadsTexts(Protocol):
    """A model that says which texts it cannot read: a `DualEncoder`, its `TextGraph`, or a `Matcher`."""

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the model knows no word, in order."""


def unknown_in(tokenizer: Tokenizer, unknown: int | None, texts: Sequence[str]) -> list[str]:
    """The distinct texts that consist of unknown tokens, apart from punctuation.

    Args:
        tokenizer: The tokenizer.
        unknown: Id of its unknown token; None if it has none, as a byte-level tokenizer, which reads every text.
        texts: The texts; empty ones are not reported.
    """
    if unknown is None:
        return []
    distinct = list(dict.fromkeys(texts))
    unread: list[str] = []
    for start in range(0, len(distinct), _BLOCK):
        block = distinct[start : start + _BLOCK]
        for text, encoding in zip(block, tokenizer.encode_batch(block), strict=True):
            if unknown not in (ids := encoding.ids):
                continue
            # A start or end token may share the id of the unknown one, as in CLIP's vocabulary; the mask leaves it out.
            own = [
                (number, token)
                for number, token, special in zip(ids, encoding.tokens, encoding.special_tokens_mask, strict=True)
                if not special
            ]
            read = (token for number, token in own if number != unknown)
            if any(number == unknown for number, _ in own) and not any(any(map(str.isalnum, token)) for token in read):
                unread.append(text)
    return unread


def unknown_to(trunk: Module, texts: Sequence[str]) -> list[str]:
    """The distinct texts of which a text route's first module knows no word; none if its tokenizer does not say."""
    tokenizer = getattr(trunk, "tokenizer", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's wraps that of transformers
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    return unknown_in(backend, getattr(tokenizer, "unk_token_id", None), within_reach(texts, token_limit(trunk)))


def unknown_words_message(texts: Sequence[str]) -> str:
    """What is wrong with texts of which the model knows no word, and what to do about it.

    >>> unknown_words_message(["собака"])
    'the model does not know these words: “собака”; describe it in other words'
    """
    named = ", ".join(f"“{_shortened(text)}”" for text in texts[:_NAMED])
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return f"the model does not know these words: {named}{more}; describe it in other words"


def warn_of_unknown_words(texts: Sequence[str], stacklevel: int = 2) -> None:
    """Issue one `UnknownWordsWarning` if there is any text of which the model knows no word."""
    if texts:
        warnings.warn(unknown_words_message(texts), UnknownWordsWarning, stacklevel=stacklevel + 1)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else f"{line[:_CHARACTERS]}..."
