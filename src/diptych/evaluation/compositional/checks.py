"""Compositional checks: does a model read a caption, or only its words? One's own captions and published sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.data.pairs import Pairs
from diptych.errors import DataError
from diptych.evaluation.compositional.swaps import KINDS, wrong_captions
from diptych.evaluation.metrics.bootstrap import bootstrap_intervals
from diptych.evaluation.metrics.compositional import (
    WinogroundScores,
    right_choices,
    right_images,
    right_texts,
    winoground_scores,
)
from diptych.matching.matcher import Matcher
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.runtime.progress import Progress, silent

__all__ = ["KINDS", "Checks", "ChoiceScores", "QuadScores", "Quads", "checks_of", "evaluate_checks", "evaluate_quads"]


@dataclass(frozen=True)
class Checks:
    """Pictures with a right and a wrong caption each: (checks,) rows of `pictures`, captions, and kinds of change."""

    pictures: Pairs
    rows: np.ndarray
    right: list[str]
    wrong: list[str]
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind, in the order in which the kinds come."""
        return {kind: int((self.kinds == kind).sum()) for kind in dict.fromkeys(self.kinds.tolist())}


def checks_of(pairs: Pairs, *, most: int = 1000, seed: int = 0) -> Checks:
    """Make checks of a data set's own captions (`swaps.wrong_captions`), at most `most` a kind, drawn by chance.

    Nobody looked at them: some wrong captions are true of their picture all the same, and some read oddly. What a
    model gets by reading alone is told beside its score (`ChoiceScores.blind`).

    Raises:
        DataError: no caption allows a change; they are made of English words.
    """
    by_kind: dict[str, list[tuple[int, str, str]]] = {kind: [] for kind in KINDS}
    for row, captions in enumerate(pairs.table.column("captions").to_pylist()):
        for caption in captions:
            for kind, wrong in wrong_captions(caption, captions, seed=str(seed)).items():
                by_kind[kind].append((row, caption, wrong))
    chance = np.random.default_rng(seed)
    kept = {
        kind: [found[at] for at in np.sort(chance.permutation(len(found))[:most])]
        for kind, found in by_kind.items()
        if found
    }
    if not kept:
        raise DataError("no caption has words that could be swapped or replaced; checks are made of English captions")
    every = [(row, right, wrong, kind) for kind, found in kept.items() for row, right, wrong in found]
    return Checks(
        pairs,
        np.array([row for row, *_ in every], np.int64),
        [right for _, right, *_ in every],
        [wrong for *_, wrong, _ in every],
        np.array([kind for *_, kind in every]),
    )


@dataclass(frozen=True)
class ChoiceScores:
    """How often the right caption won, in percent, by kind; guessing gives 50.

    `blind` is the same without looking: the choice for the mean of all pictures. What a model gets blind, it gets from
    how captions are usually written, and only what it has above that from the picture. `right` is (checks,) booleans.
    """

    accuracy: dict[str, float]
    interval: dict[str, tuple[float, float]]
    blind: dict[str, float]
    counts: dict[str, int]
    right: np.ndarray

    @property
    def mean(self) -> float:
        """Of all kinds, each weighing the same."""
        return float(np.mean(list(self.accuracy.values())))

    def rows(self) -> list[dict[str, str | float | int]]:
        """For a table: one row a kind."""
        return [
            {
                "kind": kind,
                "accuracy": self.accuracy[kind],
                "low": self.interval[kind][0],
                "high": self.interval[kind][1],
                "blind": self.blind[kind],
                "checks": self.counts[kind],
            }
            for kind in self.accuracy
        ]


def evaluate_checks(
    model: DualEncoder | Matcher, checks: Checks, *, resamples: int = 200, seed: int = 0, progress: Progress = silent
) -> ChoiceScores:
    """Put every picture to its right and its wrong caption, by cosine or by a matcher's logit.

    Intervals (95%) are of a bootstrap over pictures.

    Raises:
        DataError: a picture cannot be decoded.
    """
    every = np.arange(len(checks))
    scores, blind = _scores(model, checks.pictures, [*checks.right, *checks.wrong], progress)
    right = right_choices(scores(checks.rows, every), scores(checks.rows, every + len(checks)))
    unseen = right_choices(*np.split(blind, 2))
    places = {kind: np.flatnonzero(checks.kinds == kind) for kind in checks.counts()}

    def measured(weights: np.ndarray) -> dict[str, float]:
        return {kind: _percent(right[at], weights[at]) for kind, at in places.items()}

    return ChoiceScores(
        measured(np.ones(len(checks))),
        bootstrap_intervals(measured, checks.rows, resamples=resamples, seed=seed),
        {kind: _percent(unseen[at]) for kind, at in places.items()},
        checks.counts(),
        right,
    )


@dataclass(frozen=True)
class Quads:
    """Winoground's examples: pictures 2e and 2e + 1 of `pictures` are example e's, and their captions its captions."""

    pictures: Pairs
    tags: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tags)


@dataclass(frozen=True)
class QuadScores:
    """Winoground's scores of all examples, and of those that carry each tag; (examples, 2, 2) `scores` as given."""

    all: WinogroundScores
    by_tag: dict[str, WinogroundScores]
    scores: np.ndarray

    def right(self) -> dict[str, np.ndarray]:
        """(examples,) booleans for text, image and group."""
        text, image = right_texts(self.scores), right_images(self.scores)
        return {"text": text, "image": image, "group": text & image}


def evaluate_quads(model: DualEncoder | Matcher, quads: Quads, *, progress: Progress = silent) -> QuadScores:
    """Put both captions of every example to both of its pictures.

    Raises:
        DataError: a picture cannot be decoded.
    """
    captions = [row.captions[0] for row in quads.pictures]
    scores, _ = _scores(model, quads.pictures, captions, progress)
    caption, picture = np.divmod(np.arange(4), 2)
    first = 2 * np.arange(len(quads))[:, None]
    found = scores((first + picture).ravel(), (first + caption).ravel()).reshape(-1, 2, 2)
    tags = np.array(quads.tags)
    by_tag = {tag: winoground_scores(found[tags == tag]) for tag in sorted(set(quads.tags))}
    return QuadScores(winoground_scores(found), by_tag, found)


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _scores(
    model: DualEncoder | Matcher, pictures: Pairs, texts: Sequence[str], progress: Progress
) -> tuple[Score, np.ndarray]:
    """A function from (n,) rows and (n,) numbers of texts to scores; and (texts,) scores with the mean picture."""
    if isinstance(model, Matcher):
        images, written = model.encode_pictures(pictures, progress=progress), model.encode_texts(texts)
        pixels, words = images.vectors.cpu().numpy(), written.vectors.cpu().numpy()

        def score(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return model.logits(images, written, rows, columns)

    else:
        pixels, words = np.asarray(picture_vectors(model, pictures, progress=progress)), model.encode_texts(texts)
        if (bad := np.flatnonzero(np.isnan(pixels[:, 0]))).size:
            raise DataError(
                f"{bad.size} pictures cannot be decoded, '{pictures[int(bad[0])].image_id}' among them; every one "
                "counts here: fetch them again"
            )

        def score(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return np.einsum("nd,nd->n", pixels[rows], words[columns])

    return score, words @ pixels.mean(0)


def _percent(right: np.ndarray, weights: np.ndarray | None = None) -> float:
    if weights is not None and not weights.sum():
        return float("nan")
    return 100 * float(np.average(right, weights=weights))
