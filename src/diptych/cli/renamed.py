"""Flags that were renamed: their old spellings stay accepted, but not shown, until version 1.0."""

from __future__ import annotations

from collections.abc import Sequence

_EVERYWHERE = {"--out": "--output", "--k": "-k"}

# Words of the command -> old flag -> new flag.
RENAMED: dict[str, dict[str, str]] = {
    "app": {"--hosts": "--allowed-hosts"},
    "caption": {"--count": "-k", "--again": "--overwrite"},
    "classify": {
        "--top": "-k",
        "--labels": "--classes",
        "--prompts": "--templates",
        "--page": "--output",
        "--path": "--source",
    },
    "compare": {"--most": "--max-images", "--prompts": "--templates"},
    "data audit": {"--worst": "-k", "--page": "--output"},
    "eval caption": {"--page": "--output"},
    "eval compositional": {"--most": "--max-checks", "--matcher": "--use-matcher", "--images": "--image-folder"},
    "eval match": {"--precision": "--min-precision"},
    "eval prompt": {"--how": "--method", "--results": "--table", "--library": "--prompts"},
    "eval zeroshot": {"--prompts": "--templates"},
    "find": {"--grid": "--output"},
    "export onnx": {"--least-cosine": "--min-cosine"},
    "export openvino": {"--least-cosine": "--min-cosine"},
    "hub push": {"--picture": "--preview", "--no-picture": "--no-preview"},
    "index": {"--captions": "--with-captions", "--wait": "--lock-timeout"},
    "match": {"--picture": "--image"},
    "mcp": {"--hosts": "--allowed-hosts"},
    "prompt": {
        "--count": "-k",
        "--how": "--method",
        "--library": "--prompts",
        "--images": "--source",
        "--pictures": "--source",
    },
    "search": {"--keep": "--cutoff"},
    "serve": {
        "--batch": "--batch-size",
        "--hosts": "--allowed-hosts",
        "--max-bytes": "--max-body",
        "--memory": "--max-memory",
        "--wait": "--batch-wait",
    },
}

# `-0` reads as a number, which an option with several values before it would take for one of them.
_NULL = {"-0": "--null"}


def current_spelling(words: Sequence[str]) -> list[str]:
    """The words of a command line with every renamed flag in its current spelling.

    >>> current_spelling(["caption", "photo.jpg", "--count=3", "--out", "c.csv"])
    ['caption', 'photo.jpg', '-k', '3', '--output', 'c.csv']

    A value never begins with a hyphen, so no value is mistaken for a flag; what follows `--` is left as it is.
    """
    renamed = (
        (_NULL if words[0] in ("search", "dedupe") else {})
        | _EVERYWHERE
        | RENAMED.get(words[0], {})
        | RENAMED.get(" ".join(words[:2]), {})
    )
    end = words.index("--") if "--" in words else len(words)
    return [part for word in words[:end] for part in _renamed(word, renamed)] + [*words[end:]]


def _renamed(word: str, renamed: dict[str, str]) -> list[str]:
    flag, equals, value = word.partition("=")
    if flag not in renamed:
        return [word]
    if not equals:
        return [renamed[flag]]
    return [f"{renamed[flag]}={value}"] if renamed[flag].startswith("--") else [renamed[flag], value]
