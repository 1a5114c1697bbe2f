"""Phrases of which prompts are composed: editable lists, and the greedy choice of those that fit best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from diptych.data.formats.encoding import open_text
from diptych.errors import ConfigError, DataError
from diptych.prompting.library import Prompt
from diptych.prompting.text_space import TextSpace
from diptych.runtime.files import MAX_TEXT

LISTS = ("subject", "medium", "style", "light", "composition")
_SHORTLIST = 2  # phrases of each list that are tried in the prompt itself
_LEAST_GAIN = 1e-4  # in cosine: less is noise


def phrase_lists(folder: str | Path | None = None) -> dict[str, list[str]]:
    """The lists by name: those of the package, or one for each `.txt` in a folder of one's own.

    Raises:
        DataError: the folder holds no list, or one is empty.
    """
    if folder is None:
        texts = {name: resources.files(__package__).joinpath(f"{name}.txt").read_text("utf-8") for name in LISTS}
    else:
        texts = {file.stem: _text(file) for file in sorted(Path(folder).glob("*.txt"))}
    lists = {name: [line.strip() for line in text.splitlines() if _is_phrase(line)] for name, text in texts.items()}
    if not lists or not all(lists.values()):
        empty = next((name for name, phrases in lists.items() if not phrases), None)
        what = f"'{empty}.txt' in it is empty" if empty else "it holds no .txt"
        raise DataError(f"no phrase lists in '{folder}': {what}; write one phrase a line")
    return lists


def _text(path: Path) -> str:
    with open_text(path) as file:
        text = file.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise DataError(f"'{path}' has more than {MAX_TEXT:,} characters; give shorter phrase lists")
    return text


def _is_phrase(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def compose(
    predicted: np.ndarray,
    beginnings: Sequence[str],
    space: TextSpace,
    lists: Mapping[str, Sequence[str]] | None = None,
    *,
    most: int = 4,
) -> list[Prompt]:
    """A prompt for each picture: its beginning, then phrases, at most one of each list, at most `most` in all.

    `predicted` is (pictures, dim) unit vectors. In each round every list that is not used yet offers the phrases whose
    own vectors, added to that of the prompt so far, come nearest to the predicted one; they are tried in the prompt
    itself, and the one that gains most in cosine is taken. It ends when none gains. Where a beginning is empty, the
    nearest phrase of the list `subject` (or of the first list) is one. Vectors of phrases come from the cache.

    Raises:
        ConfigError: not as many beginnings as vectors.
    """
    if len(beginnings) != len(predicted):
        raise ConfigError(f"{len(beginnings)} beginnings for {len(predicted)} pictures; give one each")
    lists = lists or phrase_lists()
    known = {name: space.vectors(list(phrases), label="embedding phrases") for name, phrases in lists.items()}
    open_lists = [set(lists) for _ in predicted]
    texts = list(beginnings)
    for row, text in enumerate(texts):
        if not text.strip():
            first = "subject" if "subject" in lists else next(iter(lists))
            texts[row] = lists[first][int(np.argmax(known[first] @ predicted[row]))]
            open_lists[row].discard(first)
    vectors = space.encode(texts)
    scores = np.sum(vectors * predicted, axis=1)
    active = list(range(len(texts)))
    for _ in range(most):
        tries = [
            (row, name, f"{texts[row]}, {lists[name][at]}")
            for row in active
            for name in sorted(open_lists[row])
            for at in _shortlist(predicted[row], vectors[row], known[name])
        ]
        if not tries:
            break
        tried = space.encode([text for *_, text in tries])
        active = _take_best(tries, tried, predicted, texts, vectors, scores, open_lists)
    return [Prompt(text, float(score)) for text, score in zip(texts, scores, strict=True)]


def _shortlist(wanted: np.ndarray, so_far: np.ndarray, phrases: np.ndarray) -> np.ndarray:
    """The phrases that, added to the prompt so far, are likely to come nearest to the wanted vector."""
    sums = so_far + 0.5 * phrases  # (phrases, dim)
    near = (sums @ wanted) / np.linalg.norm(sums, axis=1)
    return np.argsort(-near, kind="stable")[:_SHORTLIST]


def _take_best(
    tries: list[tuple[int, str, str]],
    tried: np.ndarray,
    predicted: np.ndarray,
    texts: list[str],
    vectors: np.ndarray,
    scores: np.ndarray,
    open_lists: list[set[str]],
) -> list[int]:
    """Extend each prompt by the best of its tries, where that gains; the rows that were extended."""
    best: dict[int, tuple[float, int]] = {}
    for at, (row, _, _) in enumerate(tries):
        score = float(tried[at] @ predicted[row])
        if score > max(scores[row] + _LEAST_GAIN, best.get(row, (-2.0, 0))[0]):
            best[row] = (score, at)
    for row, (score, at) in best.items():
        _, name, texts[row] = tries[at]
        vectors[row], scores[row] = tried[at], score
        open_lists[row].discard(name)
    return list(best)
