"""The image classifier: images to classes, by the names of the classes alone or with labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from diptych.data.classes import Classes
from diptych.data.pairs import Pairs
from diptych.data.templates import templates
from diptych.errors import ConfigError, DataError, NextStep, did_you_mean
from diptych.evaluation.classifiers import (
    ClassLabels,
    EmbeddingClassifier,
    LinearProbe,
    TipAdapter,
    ZeroShotClassifier,
    class_ranks,
    cross_validated_probabilities,
)
from diptych.evaluation.evaluators import check_classes, embed_classes
from diptych.evaluation.metrics.bootstrap import bootstrap_interval
from diptych.images.paths import to_text
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.reports.gallery import Card, Gallery, Section
from diptych.runtime.atomic import new_text
from diptych.runtime.progress import Progress, silent
from diptych.runtime.quoting import ReportTable

METHODS = ("zero-shot", "adapter", "probe")


@dataclass(frozen=True, slots=True)
class Classified:
    """An image and its most probable classes.

    Attributes:
        image_id: id of the image.
        place: its path, or its id if it is not a file.
        names: names of the classes, most probable first; empty if the image cannot be decoded.
        probabilities: their probabilities.
    """

    image_id: str
    place: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MethodScores:
    """Cross-validated accuracy of one classification method, in percent.

    Attributes:
        method: one of `METHODS`.
        shots: number of examples per class; None for all.
        top1: top-1 accuracy.
        low: lower end of the 95% interval of `top1`.
        high: upper end.
        top5: top-5 accuracy.
        mean_per_class: top-1 accuracy of each class, averaged over classes.
        images: number of images.
    """

    method: str
    shots: int | None
    top1: float
    low: float
    high: float
    top5: float
    mean_per_class: float
    images: int

    def to_dict(self) -> dict[str, str | int | float | None]:
        """All fields by name."""
        return asdict(self)


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Classifies images with a dual encoder, in scikit-learn's protocol.

    `X` is a data set (`Pairs`), or an (images, dim) array of unit vectors that `model` computed. Labels are those of
    `classes.labels`.

    Args:
        model: the dual encoder.
        classes: labels of the classes, and their names in words.
        method: `zero-shot` (names only), `adapter` (names and examples, Tip-Adapter) or `probe` (a linear probe on
            examples).
        prompts: name of the prompt templates for the class names (`diptych.data.templates`).
        progress: reports progress.

    Attributes:
        classes_: (classes,) the labels, in the order of the columns of `predict_proba`.
        classifier_: the fitted classifier of embeddings.

    Raises:
        ConfigError: there are no templates of that name (when class names are first embedded).
    """

    def __init__(
        self,
        model: DualEncoder,
        classes: Classes,
        *,
        method: str = "zero-shot",
        prompts: str = "eighty",
        progress: Progress = silent,
    ) -> None:
        self.model, self.classes, self.method = model, classes, method
        self.prompts, self.progress = prompts, progress
        self._embedded: tuple[tuple[object, ...], NDArray[np.float32]] | None = None

    def __sklearn_clone__(self) -> Self:
        """An unfitted copy that shares the model instead of copying its weights."""
        return type(self)(**self.get_params(deep=False))

    @property
    def class_embeddings(self) -> NDArray[np.float32]:
        """(classes, dim) unit vectors of the class names, embedded on first use and after a change of parameters."""
        key = (id(self.model), self.classes.names, self.prompts)
        if self._embedded is None or self._embedded[0] != key:
            names = self.classes.names
            self._embedded = key, embed_classes(self.model, names, templates(self.prompts), progress=self.progress)
        return self._embedded[1]

    def fit(self, X: Pairs | NDArray[np.floating] | None = None, y: ArrayLike | None = None) -> Self:  # noqa: N803
        """Fit the classifier on labelled images; `zero-shot` needs none.

        Args:
            X: labelled images.
            y: (images,) labels; by default those that the first captions of a data set name.

        Raises:
            ConfigError: the method is unknown, or needs examples and has none.
            DataError: an image cannot be decoded, or a label is unknown.
        """
        classifier = self._classifier(self.method)
        if self.method == "zero-shot":
            self.classifier_ = classifier.fit()
        elif X is None or (y is None and not isinstance(X, Pairs)):
            raise ConfigError(
                f"the method '{self.method}' needs labelled images; give some, or use zero-shot",
                steps=[NextStep("name a folder of labelled images", "examples")],
            )
        else:
            labels = self.classes_of(X) if isinstance(X, Pairs) and y is None else y
            self.classifier_ = classifier.fit(self._decoded(X), labels)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X: Pairs | NDArray[np.floating]) -> ClassLabels:  # noqa: N803
        """The label of the most probable class of each image: (images,).

        Raises:
            DataError: an image cannot be decoded.
        """
        check_is_fitted(self)
        return self.classifier_.predict(self._decoded(X))

    def predict_proba(self, X: Pairs | NDArray[np.floating]) -> NDArray[np.float64]:  # noqa: N803
        """Class probabilities: (images, classes); NaN for an image that cannot be decoded."""
        check_is_fitted(self)
        embeddings = self._embeddings(X)
        decoded = ~np.isnan(embeddings[:, 0])
        probabilities = np.full((len(embeddings), len(self.classes_)), np.nan)
        if decoded.any():
            probabilities[decoded] = self.classifier_.predict_proba(embeddings[decoded])
        return probabilities

    def classify(self, images: Pairs, *, k: int = 5) -> list[Classified]:
        """The `k` most probable classes of each image, by name; none for an image that cannot be decoded."""
        return [
            self._classified(row.image_id, row.image, probabilities, k)
            for row, probabilities in zip(images, self.predict_proba(images), strict=True)
        ]

    def _classified(self, image_id: str, image: object, probabilities: NDArray[np.float64], k: int) -> Classified:
        place = to_text(image) if isinstance(image, Path) else image_id
        best = [] if np.isnan(probabilities).any() else np.argsort(-probabilities, kind="stable")[:k].tolist()
        names = tuple(self.classes.names[column] for column in best)
        return Classified(image_id, place, names, tuple(float(probabilities[column]) for column in best))

    def classes_of(self, pairs: Pairs) -> ClassLabels:
        """The label of each image of a data set, which its first caption names: (images,).

        Raises:
            DataError: a caption is missing or not a class.
        """
        return np.asarray(self.classes.labels)[self.classes.of(pairs)]

    def cross_validate(
        self,
        labelled: Pairs,
        *,
        methods: Sequence[str] = METHODS,
        shots: Sequence[int] = (),
        folds: int = 5,
        seed: int = 0,
        progress: Progress = silent,
    ) -> list[MethodScores]:
        """Compare methods on labelled images by cross-validation; `self` need not be fitted.

        Args:
            labelled: images whose first captions name their classes; every image must decode (see `usable_pairs`).
            methods: of `METHODS`.
            shots: also measure with this many examples of each class, drawn at random.
            folds: number of folds.
            seed: of folds, shots and intervals.
            progress: reports progress.

        Raises:
            DataError: there is one class, a class has a single image, or an image is of an unknown class.
        """
        check_classes(self.classes)
        embeddings = self._decoded(labelled)
        columns = self.classes.of(labelled)
        runs: list[tuple[str, int | None]] = [(method, None) for method in methods]
        runs += [(method, count) for count in shots for method in methods if method != "zero-shot"]
        scores = []
        for method, count in progress(runs, len(runs), "cross-validating"):
            classifier = self._classifier(method)
            if method == "zero-shot":
                probabilities = classifier.fit().predict_proba(embeddings)
            else:
                labels = np.asarray(self.classes.labels)[columns]
                probabilities = cross_validated_probabilities(
                    classifier, embeddings, labels, folds=folds, shots=count, seed=seed
                )
            scores.append(_method_scores(method, count, class_ranks(probabilities, columns), columns, seed))
        return scores

    def _classifier(self, method: str) -> EmbeddingClassifier:
        labels = self.classes.labels
        if method == "zero-shot":
            return ZeroShotClassifier(self.class_embeddings, labels, logit_scale=self.model.logit_scale)
        if method == "adapter":
            return TipAdapter(self.class_embeddings, labels, logit_scale=self.model.logit_scale)
        if method == "probe":
            return LinearProbe(labels)
        raise ConfigError(f"there is no classification method '{method}'; {did_you_mean(method, METHODS)}")

    def _embeddings(self, images: Pairs | NDArray[np.floating]) -> NDArray[np.floating]:
        if isinstance(images, Pairs):
            return np.asarray(dataset_image_embeddings(self.model, images, progress=self.progress))
        return np.asarray(images)

    def _decoded(self, images: Pairs | NDArray[np.floating]) -> NDArray[np.floating]:
        embeddings = self._embeddings(images)
        if bad := int(np.isnan(embeddings[:, 0]).sum()):
            raise DataError(f"{bad} of {len(embeddings)} images cannot be decoded; leave them out")
        return embeddings


def _method_scores(
    method: str, shots: int | None, ranks: NDArray[np.int64], labels: NDArray[np.int64], seed: int
) -> MethodScores:
    right = 100.0 * (ranks == 1)
    low, high = bootstrap_interval(right, np.arange(len(right)), seed=seed)
    return MethodScores(
        method=method,
        shots=shots,
        top1=float(right.mean()),
        low=low,
        high=high,
        top5=100 * float((ranks <= 5).mean()),
        mean_per_class=float(np.mean([right[labels == label].mean() for label in np.unique(labels)])),
        images=len(ranks),
    )


def best_method(scores: Sequence[MethodScores]) -> str:
    """The method with the highest top-1 accuracy with all examples; the first in `METHODS` of several.

    Raises:
        DataError: no method was measured with all examples.
    """
    with_all = [score for score in scores if score.shots is None]
    if not with_all:
        raise DataError("no method was measured with all examples")
    return max(with_all, key=lambda score: (score.top1, -METHODS.index(score.method))).method


def write_table(results: Sequence[Classified], path: str | Path) -> None:
    """Write CSV with the columns image, class, probability, second and second_probability.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with new_text(path, errors="replace") as file:
            table = ReportTable(file)
            table.writerow(("image", "class", "probability", "second", "second_probability"))
            for result in results:
                pairs = zip(result.names[:2], result.probabilities[:2], strict=True)
                table.writerow((result.image_id, *(field for name, p in pairs for field in (name, f"{p:.4f}"))))
    except OSError as error:
        raise ConfigError(f"cannot write '{path}' ({error.strerror}); check the folder and its permissions") from error


def class_gallery(results: Sequence[Classified], classes: Classes, limit: int = 24) -> Gallery:
    """A section for each class with its at most `limit` most probable images, for `reports.gallery.save_gallery`."""
    sections = []
    for name in dict.fromkeys(classes.names):
        members = sorted(
            (result for result in results if result.names[:1] == (name,)), key=lambda result: -result.probabilities[0]
        )
        cards = tuple(
            Card(result.place, f"{100 * result.probabilities[0]:.0f}%", Path(result.image_id).name, _second(result))
            for result in members[:limit]
        )
        if cards:
            sections.append(Section(f"{name}: {len(members):,}", cards))
    note = f"{len(results):,} images in {len(sections):,} classes, most probable first, at most {limit} per class."
    return Gallery("Images by class", note, tuple(sections))


def _second(result: Classified) -> str:
    return f"or {result.names[1]} ({100 * result.probabilities[1]:.0f}%)" if len(result.names) > 1 else ""
