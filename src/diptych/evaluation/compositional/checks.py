"""Compositional checks: whether a model prefers a right caption to one with a small, wrong change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.data.pairs import Pairs
from diptych.errors import DataError
from diptych.evaluation.compositional.swaps import KINDS, wrong_captions
from diptych.evaluation.metrics.bootstrap import Interval, bootstrap_intervals
from diptych.evaluation.metrics.compositional import (
    WinogroundScores,
    right_choices,
    right_images,
    right_texts,
    winoground_scores,
)
from diptych.matching.matcher import Matcher
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.runtime.progress import Progress, silent

__all__ = ["KINDS", "Checks", "ChoiceScores", "QuadScores", "Quads", "evaluate_checks", "evaluate_quads", "make_checks"]


@dataclass(frozen=True)
class Checks:
    """Choices between a right and a wrong caption of an image.

    Attributes:
        images: the images.
        rows: (checks,) row of each check's image in `images`.
        right: (checks,) right captions.
        wrong: (checks,) wrong captions.
        kinds: (checks,) kind of change.
    """

    images: Pairs
    rows: NDArray[np.int64]
    right: list[str]
    wrong: list[str]
    kinds: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of checks."""
        return len(self.rows)

    def counts(self) -> dict[str, int]:
        """Number of checks of each kind, in order of first occurrence."""
        return {kind: int((self.kinds == kind).sum()) for kind in dict.fromkeys(self.kinds.tolist())}


def make_checks(pairs: Pairs, *, limit: int = 1000, seed: int = 0) -> Checks:
    """Make checks from the captions of a data set with `swaps.wrong_captions`.

    The changes are not verified: some wrong captions are still true of their image, and some read oddly. What a model
    reaches from the text alone is reported as `ChoiceScores.blind`.

    Args:
        pairs: images with English captions.
        limit: limit on the checks of each kind, chosen at random.
        seed: of the changes and the choice.

    Raises:
        DataError: no caption allows a change.
    """
    by_kind: dict[str, list[tuple[int, str, str]]] = {kind: [] for kind in KINDS}
    for row, captions in enumerate(pairs.table.column("captions").to_pylist()):
        for caption in captions:
            for kind, wrong in wrong_captions(caption, captions, seed=str(seed)).items():
                by_kind[kind].append((row, caption, wrong))
    random = np.random.default_rng(seed)
    kept = {
        kind: [candidates[i] for i in np.sort(random.permutation(len(candidates))[:limit])]
        for kind, candidates in by_kind.items()
        if candidates
    }
    if not kept:
        raise DataError("no caption has words that can be swapped or replaced; checks need English captions")
    every = [(row, right, wrong, kind) for kind, checks in kept.items() for row, right, wrong in checks]
    return Checks(
        pairs,
        np.array([row for row, *_ in every], np.int64),
        [right for _, right, *_ in every],
        [wrong for *_, wrong, _ in every],
        np.array([kind for *_, kind in every]),
    )


@dataclass(frozen=True)
class ChoiceScores:
    """Accuracy of the choices, in percent; chance is 50.

    Attributes:
        accuracy: kind to accuracy.
        interval: kind to 95% interval of the accuracy.
        blind: kind to accuracy for the mean embedding of all images: what the model reaches from the text alone.
        counts: kind to number of checks.
        right: (checks,) whether the right caption scored higher.
    """

    accuracy: dict[str, float]
    interval: dict[str, Interval]
    blind: dict[str, float]
    counts: dict[str, int]
    right: NDArray[np.bool_]

    @property
    def mean(self) -> float:
        """Mean accuracy over kinds."""
        return float(np.mean(list(self.accuracy.values())))

    def rows(self) -> list[dict[str, str | float | int]]:
        """One table row for each kind: kind, accuracy, low, high, blind, checks."""
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

    def to_dict(self) -> dict[str, object]:
        """The mean, and the rows of all kinds, for JSON."""
        return {"mean": self.mean, "kinds": self.rows()}


def evaluate_checks(
    model: DualEncoder | Matcher, checks: Checks, *, resamples: int = 200, seed: int = 0, progress: Progress = silent
) -> ChoiceScores:
    """Score every image with its right and its wrong caption, by cosine or by a matcher's logit.

    Args:
        model: a dual encoder or a matcher.
        checks: the checks.
        resamples: number of resamples of the bootstrap over images.
        seed: of the bootstrap.
        progress: reports progress.

    Raises:
        DataError: an image cannot be decoded.
    """
    every = np.arange(len(checks))
    scores, blind = _scores(model, checks.images, [*checks.right, *checks.wrong], progress)
    right = right_choices(scores(checks.rows, every), scores(checks.rows, every + len(checks)))
    blind_right = right_choices(*np.split(blind, 2))
    rows_of = {kind: np.flatnonzero(checks.kinds == kind) for kind in checks.counts()}

    def accuracy(weights: NDArray[np.float64]) -> dict[str, float]:
        return {kind: _percent(right[rows], weights[rows]) for kind, rows in rows_of.items()}

    return ChoiceScores(
        accuracy(np.ones(len(checks))),
        bootstrap_intervals(accuracy, checks.rows, resamples=resamples, seed=seed),
        {kind: _percent(blind_right[rows]) for kind, rows in rows_of.items()},
        checks.counts(),
        right,
    )


@dataclass(frozen=True)
class Quads:
    """Winoground's examples, each with two images and two captions.

    Attributes:
        images: images 2e and 2e + 1 belong to example e; the first caption of each is the example's caption.
        tags: (examples,) tag of each example.
    """

    images: Pairs
    tags: tuple[str, ...]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.tags)


@dataclass(frozen=True)
class QuadScores:
    """Winoground's scores.

    Attributes:
        all: scores over all examples.
        by_tag: tag to scores over its examples.
        scores: (examples, 2 captions, 2 images) model scores.
    """

    all: WinogroundScores
    by_tag: dict[str, WinogroundScores]
    scores: NDArray[np.floating]

    def to_dict(self) -> dict[str, object]:
        """The scores of all examples by name, and those of each tag under `by_tag`, for JSON."""
        return {**asdict(self.all), "by_tag": {tag: asdict(scores) for tag, scores in self.by_tag.items()}}

    def right(self) -> dict[str, NDArray[np.bool_]]:
        """Whether each example is right, (examples,), for text, image and group."""
        text, image = right_texts(self.scores), right_images(self.scores)
        return {"text": text, "image": image, "group": text & image}


def evaluate_quads(model: DualEncoder | Matcher, quads: Quads, *, progress: Progress = silent) -> QuadScores:
    """Score both captions of every example with both of its images.

    Args:
        model: a dual encoder or a matcher.
        quads: the examples.
        progress: reports progress.

    Raises:
        DataError: an image cannot be decoded.
    """
    captions = [row.captions[0] for row in quads.images]
    score, _ = _scores(model, quads.images, captions, progress)
    caption, image = np.divmod(np.arange(4), 2)
    first = 2 * np.arange(len(quads))[:, None]
    scores = score((first + image).ravel(), (first + caption).ravel()).reshape(-1, 2, 2)
    tags = np.array(quads.tags)
    by_tag = {tag: winoground_scores(scores[tags == tag]) for tag in sorted(set(quads.tags))}
    return QuadScores(winoground_scores(scores), by_tag, scores)


Score = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.floating]]


def _scores(
    model: DualEncoder | Matcher, images: Pairs, texts: Sequence[str], progress: Progress
) -> tuple[Score, NDArray[np.floating]]:
    """A function from (n,) image rows and (n,) text rows to (n,) scores; and (texts,) scores with the mean image."""
    if isinstance(model, Matcher):
        image_parts, text_parts = model.encode_dataset(images, progress=progress), model.encode_texts(texts)
        image_embeddings, text_embeddings = image_parts.embeddings.cpu().numpy(), text_parts.embeddings.cpu().numpy()

        def score(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.floating]:
            return model.logits(image_parts, text_parts, rows, columns)

    else:
        image_embeddings = np.asarray(dataset_image_embeddings(model, images, progress=progress))
        text_embeddings = model.encode_texts(texts)
        if (bad := np.flatnonzero(np.isnan(image_embeddings[:, 0]))).size:
            raise DataError(
                f"{bad.size} images cannot be decoded, such as '{images[int(bad[0])].image_id}'; a benchmark needs all "
                "of its images: download them again"
            )

        def score(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.floating]:
            return np.einsum("nd,nd->n", image_embeddings[rows], text_embeddings[columns])

    return score, text_embeddings @ image_embeddings.mean(0)


def _percent(right: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> float:
    if weights is not None and not weights.sum():
        return float("nan")
    return 100 * float(np.average(right, weights=weights))
