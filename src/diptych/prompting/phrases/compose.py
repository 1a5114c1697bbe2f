"""Prompt composition: greedily appends phrases from editable lists to a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.data.formats.encoding import open_text
from diptych.errors import ConfigError, DataError
from diptych.prompting.library import Prompt
from diptych.prompting.text_space import TextSpace
from diptych.runtime.files import MAX_TEXT

LISTS = ("subject", "medium", "style", "light", "composition")
_SHORTLIST = 2  # phrases of each list whose full prompt is embedded
_MIN_GAIN = 1e-4  # in cosine; smaller gains are noise


def phrase_lists(folder: str | Path | None = None) -> dict[str, list[str]]:
    """Phrase lists by name: the built-in ones, or one for each `.txt` file in `folder`.

    Raises:
        DataError: the folder contains no list, or a list is empty.
    """
    if folder is None:
        texts = {name: resources.files(__package__).joinpath(f"{name}.txt").read_text("utf-8") for name in LISTS}
    else:
        texts = {file.stem: _text(file) for file in sorted(Path(folder).glob("*.txt"))}
    lists = {name: [line.strip() for line in text.splitlines() if _is_phrase(line)] for name, text in texts.items()}
    if not lists or not all(lists.values()):
        empty = next((name for name, phrases in lists.items() if not phrases), None)
        reason = f"'{empty}.txt' is empty" if empty else "there are no .txt files"
        raise DataError(f"no phrase lists in '{folder}': {reason}; write one phrase a line")
    return lists


def _text(path: Path) -> str:
    with open_text(path) as file:
        text = file.read(MAX_TEXT + 1)
    if len(text) > MAX_TEXT:
        raise DataError(f"'{path}' has more than {MAX_TEXT:,} characters; shorten the phrase list")
    return text


def _is_phrase(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def compose(
    predicted: NDArray[np.float32],
    beginnings: Sequence[str],
    space: TextSpace,
    lists: Mapping[str, Sequence[str]] | None = None,
    *,
    max_phrases: int = 4,
) -> list[Prompt]:
    """Compose a prompt for each image: its beginning, then at most `max_phrases` phrases, at most one from each list.

    `predicted` holds the predicted unit embeddings, (images, dim). Each round shortlists phrases from the unused lists
    by an approximation of the extended prompt's embedding, embeds the extended prompts, and keeps the one with the
    highest cosine. Composition ends when no phrase increases the cosine. An empty beginning is replaced by the nearest
    phrase of the list `subject`, or of the first list. Phrase embeddings are cached.

    Raises:
        ConfigError: the numbers of beginnings and embeddings differ.
    """
    if len(beginnings) != len(predicted):
        raise ConfigError(f"{len(beginnings)} beginnings for {len(predicted)} images; pass one for each image")
    lists = lists or phrase_lists()
    by_list = {name: space.encode_cached(list(phrases), label="embedding phrases") for name, phrases in lists.items()}
    unused = [set(lists) for _ in predicted]
    texts = list(beginnings)
    for row, text in enumerate(texts):
        if not text.strip():
            first = "subject" if "subject" in lists else next(iter(lists))
            texts[row] = lists[first][int(np.argmax(by_list[first] @ predicted[row]))]
            unused[row].discard(first)
    embeddings = space.encode(texts)
    scores = np.sum(embeddings * predicted, axis=1)
    active = list(range(len(texts)))
    for _ in range(max_phrases):
        candidates = [
            (row, name, f"{texts[row]}, {lists[name][phrase]}")
            for row in active
            for name in sorted(unused[row])
            for phrase in _shortlist(predicted[row], embeddings[row], by_list[name])
        ]
        if not candidates:
            break
        candidate_embeddings = space.encode([text for *_, text in candidates])
        active = _take_best(candidates, candidate_embeddings, predicted, texts, embeddings, scores, unused)
    return [Prompt(text, float(score)) for text, score in zip(texts, scores, strict=True)]


def _shortlist(predicted: np.ndarray, current: np.ndarray, phrases: np.ndarray) -> np.ndarray:
    """Indices of the best phrases, with the embedding of the extended prompt approximated by a weighted sum."""
    sums = current + 0.5 * phrases  # (phrases, dim)
    near = (sums @ predicted) / np.linalg.norm(sums, axis=1)
    return np.argsort(-near, kind="stable")[:_SHORTLIST]


def _take_best(
    candidates: list[tuple[int, str, str]],
    candidate_embeddings: np.ndarray,
    predicted: np.ndarray,
    texts: list[str],
    embeddings: np.ndarray,
    scores: np.ndarray,
    unused: list[set[str]],
) -> list[int]:
    """Replace each prompt by its best candidate if that increases the cosine; returns the rows that changed."""
    best: dict[int, tuple[float, int]] = {}
    for candidate, (row, _, _) in enumerate(candidates):
        score = float(candidate_embeddings[candidate] @ predicted[row])
        if score > max(scores[row] + _MIN_GAIN, best.get(row, (-2.0, 0))[0]):
            best[row] = (score, candidate)
    for row, (score, candidate) in best.items():
        _, name, texts[row] = candidates[candidate]
        embeddings[row], scores[row] = candidate_embeddings[candidate], score
        unused[row].discard(name)
    return list(best)
