"""Pictures into classes: by the names of the classes alone, or with the help of labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.classes import Classes
from diptych.data.pairs import Pairs
from diptych.data.templates import templates
from diptych.errors import ConfigError, DataError, did_you_mean
from diptych.evaluation.evaluators import embed_classes
from diptych.evaluation.metrics.bootstrap import bootstrap_interval
from diptych.evaluation.probe import (
    Classifier,
    ZeroShot,
    class_ranks,
    cross_validated,
    few_shots,
    fit_adapter,
    fit_probe,
)
from diptych.images.paths import to_text
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.reports.gallery import Card, Gallery, Section
from diptych.runtime.atomic import new_text
from diptych.runtime.progress import Progress, silent
from diptych.runtime.quoting import ReportTable

METHODS = ("zero-shot", "adapter", "probe")


@dataclass(frozen=True, slots=True)
class Classified:
    """A picture, the classes that it likely shows, best first, and their probabilities."""

    image_id: str
    place: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MethodScores:
    """How well one way to classify does on labelled pictures, in percent: `low` and `high` are the 95% of `top1`.

    Each picture was judged by a classifier that had not seen it. `shots` examples a class were used; None for all.
    """

    method: str
    shots: int | None
    top1: float
    low: float
    high: float
    top5: float
    mean_per_class: float
    pictures: int


class ImageClassifier:
    """Class names, put into prompts and embedded once, and what is made of them with and without examples."""

    def __init__(
        self, model: DualEncoder, classes: Classes, *, prompts: str = "eighty", progress: Progress = silent
    ) -> None:
        self.model, self.classes = model, classes
        self.by_name = embed_classes(model, classes.names, templates(prompts), progress=progress)

    def fit(self, method: str, vectors: np.ndarray | None = None, labels: np.ndarray | None = None) -> Classifier:
        """A classifier by one of `METHODS`; all but `zero-shot` need (examples, dim) vectors and (examples,) labels.

        Raises:
            ConfigError: there is no such method, or examples are missing.
        """
        if method not in METHODS:
            raise ConfigError(f"there is no way to classify called '{method}'; {did_you_mean(method, METHODS)}")
        if method == "zero-shot":
            return ZeroShot(self.by_name, self.model.logit_scale)
        if vectors is None or labels is None:
            raise ConfigError(f"'{method}' learns from labelled pictures; give some with --examples, or use zero-shot")
        if method == "adapter":
            return fit_adapter(vectors, labels, self.by_name, self.model.logit_scale)
        return fit_probe(vectors, labels, len(self.classes))

    def classify(
        self, pictures: Pairs, classifier: Classifier, *, top: int = 5, progress: Progress = silent
    ) -> list[Classified]:
        """Every picture with its `top` likeliest classes; one that does not decode has none."""
        vectors = np.asarray(picture_vectors(self.model, pictures, progress=progress))
        there = ~np.isnan(vectors[:, 0])
        found = np.full((len(vectors), len(self.classes)), np.nan)
        if there.any():
            found[there] = classifier(vectors[there])
        return [self._one(row.image_id, row.image, found[at], top) for at, row in enumerate(pictures)]

    def _one(self, image_id: str, image: object, chances: np.ndarray, top: int) -> Classified:
        place = to_text(image) if isinstance(image, Path) else image_id
        best = [] if np.isnan(chances).any() else np.argsort(-chances, kind="stable")[:top].tolist()
        names = tuple(self.classes.names[at] for at in best)
        return Classified(image_id, place, names, tuple(float(chances[at]) for at in best))

    def scores(
        self,
        labelled: Pairs,
        *,
        methods: Sequence[str] = METHODS,
        shots: Sequence[int] = (),
        folds: int = 5,
        seed: int = 0,
        progress: Progress = silent,
    ) -> list[MethodScores]:
        """How each method does on labelled pictures, with all examples and with so many `shots` a class.

        By cross-validation: a picture is never among the examples that it is judged by; of the others `shots` a class
        are drawn. Pictures must decode (`doctor.sound`).

        Raises:
            DataError: a class has a single picture, or a picture is of an unknown class.
        """
        labels = self.classes.of(labelled)
        vectors = np.asarray(picture_vectors(self.model, labelled, progress=progress))
        wanted = [(method, None) for method in methods] + [
            (method, count) for count in shots for method in methods if method != "zero-shot"
        ]
        return [
            self._scored(method, count, vectors, labels, folds, seed)
            for method, count in progress(wanted, len(wanted), "cross-validating")
        ]

    def _scored(
        self, method: str, shots: int | None, vectors: np.ndarray, labels: np.ndarray, folds: int, seed: int
    ) -> MethodScores:
        def fit(some: np.ndarray, of: np.ndarray) -> Classifier:
            rows = few_shots(of, shots, seed=seed) if shots else np.arange(len(of))
            return self.fit(method, some[rows], of[rows])

        if method == "zero-shot":
            chances = self.fit(method)(vectors)
        else:
            chances = cross_validated(fit, vectors, labels, folds=folds, seed=seed)
        ranks = class_ranks(chances, labels)
        right = 100.0 * (ranks == 1)
        low, high = bootstrap_interval(right, np.arange(len(right)), seed=seed)
        per_class = [float(right[labels == label].mean()) for label in np.unique(labels)]
        return MethodScores(
            method, shots, float(right.mean()), low, high, 100 * float((ranks <= 5).mean()),
            float(np.mean(per_class)), len(labels),
        )  # fmt: skip


def best_method(scores: Sequence[MethodScores]) -> str:
    """That with the greatest top-1 of those that had all examples; of equals the simpler one."""
    whole = [score for score in scores if score.shots is None]
    if not whole:
        raise DataError("no method was measured with all examples")
    return max(whole, key=lambda score: (score.top1, -METHODS.index(score.method))).method


def write_table(found: Sequence[Classified], path: str | Path) -> None:
    """Write CSV with the columns image, class, probability, and the second choice with its own.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with new_text(path, errors="replace") as file:
            table = ReportTable(file)
            table.writerow(("image", "class", "probability", "second", "second_probability"))
            for each in found:
                pairs = zip(each.names[:2], each.probabilities[:2], strict=True)
                table.writerow((each.image_id, *(field for name, p in pairs for field in (name, f"{p:.4f}"))))
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def class_gallery(found: Sequence[Classified], classes: Classes, most: int = 24) -> Gallery:
    """A section for each class with its surest pictures, for `index.gallery.save_gallery`."""
    sections = []
    for name in dict.fromkeys(classes.names):
        mine = sorted((each for each in found if each.names[:1] == (name,)), key=lambda each: -each.probabilities[0])
        cards = tuple(
            Card(each.place, f"{100 * each.probabilities[0]:.0f}%", Path(each.image_id).name, _second(each))
            for each in mine[:most]
        )
        if cards:
            sections.append(Section(f"{name}: {len(mine):,}", cards))
    note = f"{len(found):,} pictures in {len(sections):,} classes, the surest of each first, at most {most} of each."
    return Gallery("Pictures by class", note, tuple(sections))


def _second(each: Classified) -> str:
    return f"or {each.names[1]} ({100 * each.probabilities[1]:.0f}%)" if len(each.names) > 1 else ""
