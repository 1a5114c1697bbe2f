"""Texts longer than a text tower reads: how many tokens each has, and a warning that says how much was cut."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Module

_BLOCK = 1024  # texts tokenised at once: a tokenizer keeps kilobytes for each
_CHARACTERS = 64  # of a text for each token that is read: no language comes near it
_FEWEST, _MOST = 4_096, 65_536  # characters where a tower reads few tokens, and where it has no limit


class TextCutWarning(UserWarning):
    """Some texts were longer than the text tower reads, and what lay beyond its limit did not count."""


def token_limit(trunk: Module) -> int | None:
    """How many tokens of a text the tower reads, its start and end tokens included; None where it has no limit."""
    limit = getattr(trunk, "max_seq_length", None)
    return limit if limit and math.isfinite(limit) else None


def within_reach(texts: Sequence[str], limit: int | None) -> list[str]:
    """Texts without what lies far beyond a limit in tokens: a tokenizer takes 400 bytes and more for each character."""
    most = max(_FEWEST, _CHARACTERS * limit) if limit else _MOST
    return [text[:most] for text in texts]


def token_counts(trunk: Module, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text, uncut, start and end tokens included."""
    if hasattr(trunk, "token_counts"):
        return trunk.token_counts(texts)
    counts: list[int] = []
    for start in range(0, len(texts), _BLOCK):
        # `verbose` is for transformers' own warning, which comes once for each process and names no text.
        block = list(texts[start : start + _BLOCK])
        tokens = trunk.tokenizer(block, truncation=False, padding=False, verbose=False)
        counts += [len(each) for each in tokens["input_ids"]]
    return counts


def warn_of_cut_texts(trunk: Module, texts: Sequence[str], stacklevel: int = 2) -> None:
    """Warn, once a call, if any text is longer than the tower reads: how many, and how long the longest is.

    Of a text `within_reach` the tokens are counted.
    """
    limit = token_limit(trunk)
    if limit is not None and texts:  # counting takes less than a hundredth of what embedding them takes
        warn_of_cut(texts, token_counts(trunk, within_reach(texts, limit)), limit, stacklevel + 1)


def warn_of_cut(texts: Sequence[str], counts: Sequence[int], limit: int, stacklevel: int = 2) -> None:
    """Warn, once, if any of the texts, at least one, has more tokens than the limit."""
    longest = max(range(len(texts)), key=counts.__getitem__)
    if (cut := sum(count > limit for count in counts)) == 0:
        return
    beginning = " ".join(texts[longest].split())[:40]
    warnings.warn(
        f"{cut:,} of {len(texts):,} texts have more than the {limit} tokens that this text tower reads; what lies "
        f"beyond does not count. The longest has {counts[longest]:,} tokens, so {counts[longest] - limit:,} were cut: "
        f"'{beginning}...'. Say the same in fewer words, or split the text",
        TextCutWarning,
        stacklevel=stacklevel + 1,
    )
