"""Truncation: token counts of texts, and a warning about texts beyond a text tower's limit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Module

_BLOCK = 1024  # texts tokenized at once: a tokenizer needs kilobytes for each
_CHARACTERS_PER_TOKEN = 64  # more than any language needs
_MIN_CHARACTERS, _MAX_CHARACTERS = 4_096, 65_536  # for towers with a low limit, and without one


class TextCutWarning(UserWarning):
    """Some texts were longer than the text tower's limit and were truncated."""


def token_limit(trunk: Module) -> int | None:
    """Maximum number of tokens of a text, start and end included; None if the tower has no limit."""
    limit = getattr(trunk, "max_seq_length", None)
    return limit if limit and math.isfinite(limit) else None


def within_reach(texts: Sequence[str], limit: int | None) -> list[str]:
    """Texts cut far beyond a limit in tokens, because a tokenizer needs 400 bytes and more for each character."""
    characters = max(_MIN_CHARACTERS, _CHARACTERS_PER_TOKEN * limit) if limit else _MAX_CHARACTERS
    return [text[:characters] for text in texts]


def token_counts(trunk: Module, texts: Sequence[str]) -> list[int]:
    """The number of tokens of each text before truncation, start and end included."""
    if hasattr(trunk, "token_counts"):
        return trunk.token_counts(texts)
    counts: list[int] = []
    for start in range(0, len(texts), _BLOCK):
        # verbose=False silences transformers' own warning, which comes once per process and names no text.
        block = list(texts[start : start + _BLOCK])
        tokens = trunk.tokenizer(block, truncation=False, padding=False, verbose=False)
        counts += [len(ids) for ids in tokens["input_ids"]]
    return counts


def warn_of_cut_texts(trunk: Module, texts: Sequence[str], stacklevel: int = 2) -> None:
    """Issue one `TextCutWarning` if any text is longer than the tower's limit."""
    limit = token_limit(trunk)
    if limit is not None and texts:  # counting costs less than 1% of embedding
        warn_of_cut(texts, token_counts(trunk, within_reach(texts, limit)), limit, stacklevel + 1)


def warn_of_cut(texts: Sequence[str], counts: Sequence[int], limit: int, stacklevel: int = 2) -> None:
    """Issue one `TextCutWarning` if any count exceeds the limit; there must be at least one text."""
    longest = max(range(len(texts)), key=counts.__getitem__)
    if (cut := sum(count > limit for count in counts)) == 0:
        return
    beginning = " ".join(texts[longest].split())[:40]
    warnings.warn(
        f"{cut:,} of {len(texts):,} texts have more than the {limit} tokens that this text tower reads and were "
        f"truncated. The longest has {counts[longest]:,} tokens, {counts[longest] - limit:,} too many: "
        f"'{beginning}...'. Shorten or split the text",
        TextCutWarning,
        stacklevel=stacklevel + 1,
    )
