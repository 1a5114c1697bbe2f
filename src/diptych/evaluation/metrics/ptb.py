"""Captions as the words that the field's scores count: Penn Treebank tokens, lower-cased, without punctuation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from diptych.errors import ConfigError, MissingExtra, did_you_mean
from diptych.evaluation.metrics import java
from diptych.evaluation.metrics.ptb_fallback import fallback_tokens

# How each is named in a report.
TOKENIZERS = {
    "ptb": "PTB tokenizer of Stanford CoreNLP 3.4.1, as coco-caption",
    "fallback": "diptych's own in place of the PTB tokenizer (needs no Java)",
}

# What coco-caption leaves out. Brackets stay (`-lrb-`): it looks for them in capitals after they were lower-cased.
_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_JAR = ("tokenizer", "stanford-corenlp-3.4.1.jar")


def tokenize(texts: Sequence[str], tokenizer: str = "auto") -> tuple[list[list[str]], str]:
    """The words of each text, and the name of the tokenizer that found them.

    `auto` is `ptb` where Java and the package pycocoevalcap are there, and `fallback` elsewhere. The fallback finds the
    same words in all 35,000 captions of Flickr8k's train and dev parts.

    Raises:
        ConfigError: there is no tokenizer of that name.
        MissingExtra: `ptb` is asked for, and Java or the package is not there.

    >>> tokenize(["A dog's ball (red) isn't here!"], "fallback")
    ([['a', 'dog', "'s", 'ball', '-lrb-', 'red', '-rrb-', 'is', "n't", 'here']], 'fallback')
    """
    if tokenizer not in (*TOKENIZERS, "auto"):
        raise ConfigError(f"there is no tokenizer '{tokenizer}'; {did_you_mean(tokenizer, (*TOKENIZERS, 'auto'))}")
    name = tokenizer if tokenizer != "auto" else "ptb" if java.runs(*_JAR) else "fallback"
    lines = [" ".join(text.split()) for text in texts]  # one text a line
    found = _ptb_tokens(lines) if name == "ptb" else [fallback_tokens(line) for line in lines]
    return [[word for word in words if word not in _PUNCTUATION] for words in found], name


def _ptb_tokens(lines: list[str]) -> list[list[str]]:
    if not java.runs(*_JAR):
        raise MissingExtra(f"the PTB tokenizer is not there: {java.HOW}; or take the tokenizer 'fallback'")
    if not lines:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "captions.txt")
        path.write_text("\n".join(lines) + "\n", "utf-8", "replace", newline="\n")
        words = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8")
        told = java.run_java("-cp", str(java.program(*_JAR)), *words, str(path))
    # It writes no line end after the last line, and a non-breaking space inside some tokens (`1 1/2`).
    found = [line.split(" ") for line in told.decode("utf-8").split("\n")]
    found = [[word for word in words if word] for words in found][: len(lines)]
    assert len(found) == len(lines), f"{len(found)} lines came back for {len(lines)}"
    return found
