"""Evaluators of retrieval, zero-shot classification and matching: built from a data set, called with model outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.data.classes import Classes, classes_in
from diptych.data.doctor.inspect import Report, usable_pairs
from diptych.data.labelled import Labelled
from diptych.data.pairs import Pairs
from diptych.data.templates import fill, templates
from diptych.errors import DataError, NextStep
from diptych.evaluation.metrics.bootstrap import Interval, bootstrap_intervals
from diptych.evaluation.metrics.matching import BINS, Labels, MatchScores, matching_metrics
from diptych.evaluation.metrics.retrieval import Embeddings, RetrievalScores, retrieval_metrics
from diptych.evaluation.metrics.zeroshot import ZeroShotScores, mean_class_embeddings, zeroshot_metrics
from diptych.matching.matcher import Matcher
from diptych.matching.negatives import HARD_SHARE, LabelledPairs, make_labelled_pairs
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.runtime.progress import Progress, silent


class RetrievalEvaluator:
    """Image-text retrieval in both directions (`metrics.retrieval`).

    Embed the images of `evaluator.pairs` in the order of its rows, and `evaluator.captions`, then call the evaluator
    with both.

    Args:
        pairs: images with captions.
        ks: the values of K of R@K.
        block: as for `metrics.retrieval.retrieval_ranks`.

    Raises:
        DataError: the pairs hold no caption.
    """

    def __init__(self, pairs: Pairs, ks: Sequence[int] = (1, 5, 10), block: int = 1024) -> None:
        self.pairs = pairs
        self.captions, self.image_index = pairs.flat_captions()
        if not self.captions:
            raise DataError(f"none of the {len(pairs)} images has a caption; retrieval needs at least one")
        self.ks = tuple(ks)
        self.block = block

    def __call__(self, image_embeddings: Embeddings, text_embeddings: Embeddings) -> RetrievalScores:
        """Score embeddings.

        Args:
            image_embeddings: (images, dim) unit vectors.
            text_embeddings: (captions, dim) unit vectors.

        Raises:
            ValueError: the number of images or captions differs, or as `retrieval_ranks`.
        """
        _check_counts((image_embeddings, text_embeddings), (len(self.pairs), len(self.captions)), "captions")
        return retrieval_metrics(image_embeddings, text_embeddings, self.image_index, self.ks, self.block)


def evaluate_retrieval(
    model: DualEncoder, pairs: Pairs, *, max_bad_share: float = 0.1, progress: Progress = silent
) -> tuple[RetrievalScores, Report]:
    """Evaluate image-text retrieval of a model on a data set.

    Image embeddings are cached on disk by model and data set.

    Args:
        model: the dual encoder.
        pairs: images with captions; images that cannot be used are left out.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The scores, and the images that were left out with reasons.

    Raises:
        DataError: no image is left, more than `max_bad_share` cannot be used, or all captions are the same text.
    """
    if len(pairs) > 1 and len(set(pairs.captions())) == 1:
        raise DataError(
            f"all captions of the {len(pairs):,} images are '{pairs.captions()[0][:60]}'; retrieval needs captions "
            "that tell images apart"
        )
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    evaluator = RetrievalEvaluator(usable)
    image_embeddings = dataset_image_embeddings(model, usable, progress=progress)
    return evaluator(image_embeddings, model.encode_texts(evaluator.captions)), left_out


def check_classes(classes: Classes) -> None:
    """Check that there are several classes to tell apart.

    Raises:
        DataError: there is one class, which every classifier gets right.
    """
    if len(classes) < 2:
        raise DataError(
            f"there is one class, '{classes.labels[0]}', which every classifier gets right; add images of another "
            "class",
            steps=[NextStep("or name the classes to tell apart", "classes")],
        )


class ZeroShotEvaluator:
    """Zero-shot classification (`metrics.zeroshot`).

    Embed the images of `evaluator.pairs` in the order of its rows, and the names of `evaluator.classes`
    (`embed_classes`), then call the evaluator with both.

    Args:
        pairs: images whose first captions name their classes.
        classes: the candidate classes; by default those that the captions name.
        ks: the values of K of top-K accuracy.

    Raises:
        DataError: an image's first caption is not a class, or there is only one class.
    """

    def __init__(self, pairs: Pairs, classes: Classes | None = None, ks: Sequence[int] = (1, 5)) -> None:
        self.pairs = pairs
        self.classes = classes or classes_in(pairs)
        check_classes(self.classes)
        self.labels = self.classes.of(pairs)
        self.ks = tuple(ks)

    def __call__(self, image_embeddings: Embeddings, class_embeddings: Embeddings) -> ZeroShotScores:
        """Score unit vectors of images, (images, dim), and of classes, (classes, dim).

        Raises:
            ValueError: the number of images or classes differs, or as `zeroshot_metrics`.
        """
        _check_counts((image_embeddings, class_embeddings), (len(self.pairs), len(self.classes)), "classes")
        return zeroshot_metrics(image_embeddings, class_embeddings, self.labels, self.ks)


def embed_classes(
    model: DualEncoder, names: Sequence[str], prompt_templates: Sequence[str], *, progress: Progress = silent
) -> NDArray[np.float32]:
    """Embed class names: the normalized mean over all templates filled with the name, (classes, dim).

    A name without a known word issues an `UnknownWordsWarning`.
    """
    warn_of_unknown_words(model.unknown_texts(names))  # the words of a template are known
    blocks = [names[start : start + 16] for start in range(0, len(names), 16)]
    parts = [
        mean_class_embeddings(
            model.encode_texts(fill(prompt_templates, block)).reshape(len(block), len(prompt_templates), model.dim)
        )
        for block in progress(blocks, len(blocks), "embedding class names")
    ]
    return np.concatenate(parts)


def evaluate_zeroshot(
    model: DualEncoder,
    pairs: Pairs,
    classes: Classes | None = None,
    *,
    prompts: str = "eighty",
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> tuple[ZeroShotScores, Report]:
    """Evaluate zero-shot classification of a model on a data set.

    Args:
        model: the dual encoder.
        pairs: images whose first captions name their classes; images that cannot be used are left out.
        classes: the candidate classes; by default those that the captions name.
        prompts: name of the prompt templates (`diptych.data.templates`).
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The scores, and the images that were left out with reasons.

    Raises:
        ConfigError: there are no templates of that name.
        DataError: no image is left, too many cannot be used, or an image is of an unknown class.
    """
    chosen = templates(prompts)
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    evaluator = ZeroShotEvaluator(usable, classes)
    class_embeddings = embed_classes(model, evaluator.classes.names, chosen, progress=progress)
    return evaluator(dataset_image_embeddings(model, usable, progress=progress), class_embeddings), left_out


@dataclass(frozen=True)
class MatchReport:
    """Scores of a matcher on each set of pairs.

    The sets are `mixture`, `random` and `hard` (`negatives.make_labelled_pairs`), or `labelled`.

    Attributes:
        scores: set to scores.
        intervals: set to the 95% interval of each score by name.
        pairs: the labelled pairs.
        probabilities: (pairs,) predicted probabilities.
    """

    scores: dict[str, MatchScores]
    intervals: dict[str, dict[str, Interval]]
    pairs: LabelledPairs
    probabilities: NDArray[np.floating]

    def to_dict(self) -> dict[str, dict[str, float | list[float]]]:
        """For each set, every score by name, and its interval as `NAME_interval`."""
        sets: dict[str, dict[str, float | list[float]]] = {}
        for name, scores in self.scores.items():
            ends = {f"{key}_interval": list(value) for key, value in self.intervals[name].items()}
            sets[name] = {**scores.to_dict(), **ends}
        return sets

    def of(self, name: str) -> tuple[NDArray[np.floating], Labels]:
        """Probabilities and labels of one set, (pairs of the set,) each."""
        rows = self.pairs.sets[name]
        return self.probabilities[rows], self.pairs.labels[rows]


class MatchEvaluator:
    """Match probabilities of labelled pairs (`metrics.matching`), scored for each set of pairs.

    Intervals are from a bootstrap over images: pairs whose texts belong to the same image are drawn together.

    Args:
        pairs: the labelled pairs.
        threshold: lowest probability that is predicted as a match.
        bins: number of bins of the calibration error.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """

    measured = ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "brier", "ece")

    def __init__(
        self, pairs: LabelledPairs, *, threshold: float = 0.5, bins: int = BINS, resamples: int = 200, seed: int = 0
    ) -> None:
        self.pairs, self.threshold, self.bins = pairs, threshold, bins
        self.resamples, self.seed = resamples, seed

    def __call__(self, probabilities: NDArray[np.floating]) -> MatchReport:
        """Score (pairs,) probabilities, one for each of the labelled pairs in order.

        Raises:
            DataError: all pairs of a set have the same label.
            ValueError: the number of pairs differs, or as `matching_metrics`.
        """
        check_labels(self.pairs)
        if len(probabilities) != len(self.pairs.labels):
            raise ValueError(f"{len(probabilities)} probabilities for {len(self.pairs.labels)} pairs; give one each")
        scores, intervals = {}, {}
        for name, rows in self.pairs.sets.items():
            scores[name], intervals[name] = self._scores(
                probabilities[rows], self.pairs.labels[rows], self.pairs.owner[rows]
            )
        return MatchReport(scores, intervals, self.pairs, probabilities)

    def _scores(
        self,
        probabilities: NDArray[np.floating],
        labels: Labels,
        groups: NDArray[np.integer],
    ) -> tuple[MatchScores, dict[str, Interval]]:
        def scores(weights: NDArray[np.floating] | None) -> MatchScores:
            return matching_metrics(probabilities, labels, threshold=self.threshold, bins=self.bins, weights=weights)

        def numbers(weights: NDArray[np.floating]) -> dict[str, float]:
            if len(np.unique(labels[weights > 0])) < 2:  # drawn from few images: not defined, and left out
                return dict.fromkeys(self.measured, math.nan)
            weighted = scores(weights).to_dict()
            return {key: weighted[key] for key in self.measured}

        return scores(None), bootstrap_intervals(numbers, groups, resamples=self.resamples, seed=self.seed)


def check_labels(pairs: LabelledPairs) -> None:
    """Check that each set of pairs has matches and others, without which there is nothing to measure.

    Raises:
        DataError: all pairs of a set have the same label, or there are none.
    """
    for name, rows in pairs.sets.items():
        matches = int(np.count_nonzero(pairs.labels[rows]))
        if not 0 < matches < len(rows):
            kind = "all" if matches else "none"
            raise DataError(
                f"{kind} of the {len(rows):,} pairs of the set '{name}' are matches; accuracy, precision and AUC "
                "compare matches with pairs that do not match: add pairs of the other kind"
            )


def evaluate_match(
    matcher: Matcher,
    data: Pairs | Labelled,
    *,
    threshold: float = 0.5,
    prior: float | None = None,
    hard_share: float = HARD_SHARE,
    hard_mixture: float = 0.5,
    resamples: int = 200,
    max_bad_share: float = 0.1,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[MatchReport, Report]:
    """Evaluate the match probabilities of a matcher on a data set.

    Args:
        matcher: the matcher.
        data: labelled pairs, or images with captions, from which negatives are made: random ones, and hard ones that
            the matcher's dual encoder finds similar. Images that cannot be used are left out.
        threshold: lowest probability that is predicted as a match.
        prior: fraction of matches that the probabilities assume; that of the calibration by default.
        hard_share: fraction of the images that hard negatives are drawn from, the most similar ones.
        hard_mixture: fraction of hard negatives in the set `mixture`.
        resamples: number of bootstrap resamples.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        seed: of negatives and bootstrap.
        progress: reports progress.

    Returns:
        The report, and the images that were left out with reasons.

    Raises:
        DataError: no image is left, more than `max_bad_share` cannot be used, or all labels are equal.
    """
    if isinstance(data, Labelled):
        check_labels(_labelled_set(data))
    all_images = data.images if isinstance(data, Labelled) else data
    usable, left_out = usable_pairs(all_images, max_bad_share=max_bad_share, progress=progress)
    images = matcher.encode_dataset(usable, progress=progress)
    if isinstance(data, Labelled):
        kept = data.of(usable)
        check_labels(pairs := _labelled_set(kept))
        texts = matcher.encode_texts(kept.texts)
    else:
        texts = matcher.encode_texts(usable.flat_captions()[0])
        embeddings = images.embeddings.cpu().numpy(), texts.embeddings.cpu().numpy()
        pairs = make_labelled_pairs(usable, *embeddings, hard_share=hard_share, hard_mixture=hard_mixture, seed=seed)
    probabilities = matcher.probabilities(images, texts, pairs.rows, pairs.texts, prior=prior)
    evaluator = MatchEvaluator(pairs, threshold=threshold, resamples=resamples, seed=seed)
    return evaluator(probabilities), left_out


def _labelled_set(data: Labelled) -> LabelledPairs:
    """Labelled pairs as the one set `labelled`."""
    every = np.arange(len(data))
    return LabelledPairs(data.rows, every, data.labels, data.rows, {"labelled": every})


def _check_counts(embeddings: tuple[Embeddings, Embeddings], expected: tuple[int, int], others: str) -> None:
    """Check that there is one embedding for each image, and one for each of the `others` (captions or classes).

    Raises:
        ValueError: There are more or fewer.
    """
    counts = len(embeddings[0]), len(embeddings[1])
    if counts != expected:
        raise ValueError(
            f"{counts[0]} embeddings of images and {counts[1]} of {others} for {expected[0]} images and {expected[1]} "
            f"{others}; embed each once, in order"
        )
