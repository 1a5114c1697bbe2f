"""Tokenization for caption metrics: Penn Treebank tokens, lower-cased, without punctuation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from diptych.errors import ConfigError, MissingExtra, did_you_mean
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.ptb_fallback import fallback_tokens

# Names in reports.
TOKENIZERS = {
    "ptb": "PTB tokenizer of Stanford CoreNLP 3.4.1, as coco-caption",
    "fallback": "diptych's own in place of the PTB tokenizer (needs no Java)",
}

# What coco-caption removes. Brackets stay (`-lrb-`): it looks for upper-case names after lower-casing.
_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_JAR = ("tokenizer", "stanford-corenlp-3.4.1.jar")


def tokenize(texts: Sequence[str], tokenizer: str = "auto") -> tuple[list[list[str]], str]:
    """Tokenize texts.

    Args:
        texts: the texts.
        tokenizer: a key of `TOKENIZERS`, or `auto`: `ptb` if Java and pycocoevalcap are installed, else `fallback`. The
            two give equal tokens on all 35,000 captions of Flickr8k's train and dev splits.

    Returns:
        The words of each text, and the name of the tokenizer that was used.

    Raises:
        ConfigError: there is no tokenizer of that name.
        MissingExtra: `ptb` is requested, and Java or pycocoevalcap is not installed.

    >>> tokenize(["A dog's ball (red) isn't here!"], "fallback")
    ([['a', 'dog', "'s", 'ball', '-lrb-', 'red', '-rrb-', 'is', "n't", 'here']], 'fallback')
    """
    if tokenizer not in (*TOKENIZERS, "auto"):
        raise ConfigError(f"there is no tokenizer '{tokenizer}'; {did_you_mean(tokenizer, (*TOKENIZERS, 'auto'))}")
    name = tokenizer if tokenizer != "auto" else "ptb" if java.runs(*_JAR) else "fallback"
    lines = [" ".join(text.split()) for text in texts]  # one text a line
    tokens = _ptb_tokens(lines) if name == "ptb" else [fallback_tokens(line) for line in lines]
    return [[token for token in of_text if token not in _PUNCTUATION] for of_text in tokens], name


def _ptb_tokens(lines: list[str]) -> list[list[str]]:
    if not java.runs(*_JAR):
        raise MissingExtra(f"the PTB tokenizer is not installed: {java.HOW}; or use the tokenizer 'fallback'")
    if not lines:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "captions.txt")
        path.write_text("\n".join(lines) + "\n", "utf-8", "replace", newline="\n")
        arguments = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
        output = java.run_java("-cp", str(java.program(*_JAR)), *arguments, str(path))
    # The last line has no line end, and some tokens contain a non-breaking space (`1 1/2`), so split on spaces alone.
    tokens = [[token for token in line.split(" ") if token] for line in output.decode("utf-8").split("\n")][
        : len(lines)
    ]
    assert len(tokens) == len(lines), f"{len(tokens)} lines of output for {len(lines)} texts"
    return tokens
