"""Evaluators: built once from a data set, called with what a model made of it; they return numbers, write nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from diptych.data.classes import Classes, classes_in
from diptych.data.doctor.inspect import Report, sound
from diptych.data.labelled import Labelled
from diptych.data.pairs import Pairs
from diptych.data.templates import fill, templates
from diptych.errors import DataError
from diptych.evaluation.metrics.bootstrap import bootstrap_intervals
from diptych.evaluation.metrics.matching import BINS, MatchScores, matching_metrics
from diptych.evaluation.metrics.retrieval import RetrievalScores, retrieval_metrics
from diptych.evaluation.metrics.zeroshot import ZeroShotScores, mean_class_embeddings, zeroshot_metrics
from diptych.matching.matcher import Matcher
from diptych.matching.negatives import HARD_SHARE, LabelledPairs, make_labelled_pairs
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.runtime.progress import Progress, silent


class RetrievalEvaluator:
    """Measures a dual encoder on `pairs`, image to text and text to image (`diptych.evaluation.metrics.retrieval`).

    Embed `evaluator.pairs`, one vector a picture in the order of its rows, and `evaluator.captions`, one vector a
    caption, then call the evaluator with both.

    Raises:
        DataError: the pairs hold no caption.
    """

    def __init__(self, pairs: Pairs, ks: Sequence[int] = (1, 5, 10), block: int = 1024) -> None:
        self.pairs = pairs
        self.captions, self.image_index = pairs.flat_captions()
        if not self.captions:
            raise DataError(f"none of the {len(pairs)} pictures has a caption; retrieval needs at least one")
        self.ks = tuple(ks)
        self.block = block

    def __call__(self, image_embeddings: np.ndarray | Tensor, text_embeddings: np.ndarray | Tensor) -> RetrievalScores:
        """Score (pictures, dim) and (captions, dim) unit vectors.

        Raises:
            ValueError: their numbers are not those of the pictures and captions, or `retrieval_ranks` refuses them.
        """
        if (len(image_embeddings), len(text_embeddings)) != (len(self.pairs), len(self.captions)):
            raise ValueError(
                f"{len(image_embeddings)} image and {len(text_embeddings)} text embeddings for "
                f"{len(self.pairs)} pictures and {len(self.captions)} captions; embed each once, in order"
            )
        return retrieval_metrics(image_embeddings, text_embeddings, self.image_index, self.ks, self.block)


def evaluate_retrieval(
    model: DualEncoder, pairs: Pairs, *, max_bad_share: float = 0.1, progress: Progress = silent
) -> tuple[RetrievalScores, Report]:
    """Embed a data set with `model` and score it; pictures that cannot be used are left out, and reported.

    Picture vectors are kept on disk under the identities of model and data, and used again.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    evaluator = RetrievalEvaluator(usable)
    image_vectors = picture_vectors(model, usable, progress=progress)
    return evaluator(image_vectors, model.encode_texts(evaluator.captions)), left_out


class ZeroShotEvaluator:
    """Measures zero-shot classification of `pairs`, whose first captions name their classes (`metrics.zeroshot`).

    Embed `evaluator.pairs`, one vector a picture in the order of its rows, and the names of `evaluator.classes`
    (`embed_classes`), then call the evaluator with both.

    Raises:
        DataError: a picture's first caption is none of the classes.
    """

    def __init__(self, pairs: Pairs, classes: Classes | None = None, ks: Sequence[int] = (1, 5)) -> None:
        self.pairs = pairs
        self.classes = classes or classes_in(pairs)
        self.labels = self.classes.of(pairs)
        self.ks = tuple(ks)

    def __call__(self, image_embeddings: np.ndarray | Tensor, class_embeddings: np.ndarray | Tensor) -> ZeroShotScores:
        """Score (pictures, dim) and (classes, dim) unit vectors.

        Raises:
            ValueError: their numbers are not those of the pictures and classes, or `zeroshot_metrics` refuses them.
        """
        if (len(image_embeddings), len(class_embeddings)) != (len(self.pairs), len(self.classes)):
            raise ValueError(
                f"{len(image_embeddings)} image and {len(class_embeddings)} class embeddings for "
                f"{len(self.pairs)} pictures and {len(self.classes)} classes; embed each once, in order"
            )
        return zeroshot_metrics(image_embeddings, class_embeddings, self.labels, self.ks)


def embed_classes(
    model: DualEncoder, names: Sequence[str], prompt_templates: Sequence[str], *, progress: Progress = silent
) -> np.ndarray:
    """The vector of each class name, from all templates filled with it: (classes, dim) float32."""
    blocks = [names[at : at + 16] for at in range(0, len(names), 16)]
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
    """Classify the pictures of a data set by the names of their classes alone; unusable pictures are left out.

    `prompts` names the templates (`diptych.data.templates`). Without `classes`, they are those that the data set has.

    Raises:
        ConfigError: there are no templates of that name.
        DataError: nothing is left, too many pictures cannot be used, or one is of an unknown class.
    """
    chosen = templates(prompts)
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    evaluator = ZeroShotEvaluator(usable, classes)
    class_embeddings = embed_classes(model, evaluator.classes.names, chosen, progress=progress)
    return evaluator(picture_vectors(model, usable, progress=progress), class_embeddings), left_out


@dataclass(frozen=True)
class MatchReport:
    """Scores of a matcher on each set of pairs, with the interval of each number, and what they were computed from.

    The sets are `mixture`, `random` and `hard` (`negatives.make_labelled_pairs`), or `labelled`.
    """

    scores: dict[str, MatchScores]
    intervals: dict[str, dict[str, tuple[float, float]]]
    judged: LabelledPairs
    probabilities: np.ndarray

    def to_dict(self) -> dict[str, dict[str, float | list[float]]]:
        """By set: every score, and its interval as `NAME_interval`."""
        told: dict[str, dict[str, float | list[float]]] = {}
        for name, scores in self.scores.items():
            ends = {f"{key}_interval": list(value) for key, value in self.intervals[name].items()}
            told[name] = {**scores.to_dict(), **ends}
        return told

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and labels of one set."""
        chosen = self.judged.sets[name]
        return self.probabilities[chosen], self.judged.labels[chosen]


class MatchEvaluator:
    """Measures probabilities of `judged` pairs (`diptych.evaluation.metrics.matching`), each set by itself.

    Intervals are of a bootstrap over pictures: pairs whose texts have one owner are drawn together.
    """

    measured = ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "brier", "ece")

    def __init__(
        self, judged: LabelledPairs, *, threshold: float = 0.5, bins: int = BINS, resamples: int = 200, seed: int = 0
    ) -> None:
        self.judged, self.threshold, self.bins = judged, threshold, bins
        self.resamples, self.seed = resamples, seed

    def __call__(self, probabilities: np.ndarray) -> MatchReport:
        """Score (pairs,) probabilities, one for each of the judged pairs, in order.

        Raises:
            ValueError: there are more or fewer, or `matching_metrics` refuses them.
        """
        if len(probabilities) != len(self.judged.labels):
            raise ValueError(f"{len(probabilities)} probabilities for {len(self.judged.labels)} pairs; give one each")
        scores, intervals = {}, {}
        for name, chosen in self.judged.sets.items():
            p, y = probabilities[chosen], self.judged.labels[chosen]

            def measure(weights: np.ndarray | None, p: np.ndarray = p, y: np.ndarray = y) -> MatchScores:
                return matching_metrics(p, y, threshold=self.threshold, bins=self.bins, weights=weights)

            def numbers(weights: np.ndarray, measure: Callable[..., MatchScores] = measure) -> dict[str, float]:
                told = measure(weights).to_dict()
                return {key: told[key] for key in self.measured}

            scores[name] = measure(None)
            groups = self.judged.owner[chosen]
            intervals[name] = bootstrap_intervals(numbers, groups, resamples=self.resamples, seed=self.seed)
        return MatchReport(scores, intervals, self.judged, probabilities)


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
    """Judge the pairs of a data set with `matcher`; pictures that cannot be used are left out, and reported.

    Of captioned pictures negatives are made, hard ones by the matcher's own dual encoder; labelled pairs are taken as
    they are.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    pictures = data.pictures if isinstance(data, Labelled) else data
    usable, left_out = sound(pictures, max_bad_share=max_bad_share, progress=progress)
    images = matcher.encode_pictures(usable, progress=progress)
    if isinstance(data, Labelled):
        kept = data.of(usable)
        captions, every = kept.texts, np.arange(len(kept))
        judged = LabelledPairs(kept.rows, every, kept.labels, kept.rows, {"labelled": every})
        texts = matcher.encode_texts(captions)
    else:
        texts = matcher.encode_texts(usable.flat_captions()[0])
        vectors = images.vectors.cpu().numpy(), texts.vectors.cpu().numpy()
        judged = make_labelled_pairs(usable, *vectors, hard_share=hard_share, hard_mixture=hard_mixture, seed=seed)
    probabilities = matcher.probabilities(images, texts, judged.rows, judged.texts, prior=prior)
    evaluator = MatchEvaluator(judged, threshold=threshold, resamples=resamples, seed=seed)
    return evaluator(probabilities), left_out
