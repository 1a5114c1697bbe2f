"""Evaluation of prompters against known prompts, with baselines, and CLIPScore of images with their prompts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.captioning.captioner import Captioner
from diptych.data.doctor.inspect import Report, usable_pairs
from diptych.data.pairs import Pairs
from diptych.errors import DataError
from diptych.evaluation.metrics.clipscore import PREFIX, clip_score
from diptych.evaluation.metrics.similarity import SimilarityScores, paired_cosines, similarity_metrics
from diptych.matching.match_table import MatchTable
from diptych.models.cosine import normalize, top_k
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import decode_all
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.prompting.library import PromptLibrary
from diptych.prompting.many_images import prompt_images
from diptych.prompting.prompter import Prompter, PromptMethod
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

# Names of the rows of a report.
PROMPTER, GENERATED = "prompter", "generated prompt"
MEAN, OTHERS = "mean embedding", "other prompts"
NEIGHBOUR, NEIGHBOURS = "nearest image's prompt", "nearest image's mean"
_BATCH = 32  # images that are decoded and embedded at once


@dataclass(frozen=True)
class PromptReport:
    """Similarity of predicted prompts to the true ones.

    Attributes:
        scores: name of a row (`PROMPTER`, `GENERATED`, and the baselines) to its scores.
        image_ids: (prompts,) the image of each true prompt.
        prompts: (prompts,) the true prompts.
        generated: (prompts,) the text generated for each prompt's image.
        cosines: (prompts,) cosine of each true prompt and the embedding predicted for its image.
    """

    scores: dict[str, SimilarityScores]
    image_ids: list[str]
    prompts: list[str]
    generated: list[str]
    cosines: NDArray[np.float64]

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """All scores by row name and score name, for JSON."""
        return {name: scores.to_dict() for name, scores in self.scores.items()}

    def lines(self) -> list[tuple[str, str, str, str]]:
        """One (image id, prompt, generated prompt, cosine) for each true prompt, for CSV."""
        cosines = (f"{cosine:.4f}" for cosine in self.cosines)
        return list(zip(self.image_ids, self.prompts, self.generated, cosines, strict=True))


@dataclass(frozen=True)
class PromptBaselines:
    """What the baselines of `PromptEvaluator` are computed from: the training prompts, and image features.

    Attributes:
        embeddings: (training prompts, dim) embeddings of the training prompts.
        owner: (training prompts,) integers: the training image of each.
        features: (images, width) image features of the evaluated images, if the nearest-image baselines are wanted.
        train_features: (training images, width) image features of the training images.
    """

    embeddings: NDArray[np.floating]
    owner: NDArray[np.integer] | None = None
    features: NDArray[np.floating] | None = None
    train_features: NDArray[np.floating] | None = None

    def mean(self, images: int) -> NDArray[np.floating]:
        """The mean training embedding as the prediction for every image: (images, dim)."""
        return np.broadcast_to(self.embeddings.mean(0), (images, self.embeddings.shape[1]))

    def nearest(self) -> dict[str, NDArray[np.floating]]:
        """The first prompt, and the mean of all prompts, of the training image with the most similar features.

        Returns:
            `NEIGHBOUR` and `NEIGHBOURS` to (images, dim); nothing if the features are not known.
        """
        if self.owner is None or self.features is None or self.train_features is None:
            return {}
        with_prompt, first, owner = np.unique(self.owner, return_index=True, return_inverse=True)
        rows = nearest_rows(self.features, self.train_features[with_prompt])
        means = mean_embeddings(self.embeddings, owner, len(with_prompt))
        return {NEIGHBOUR: self.embeddings[first[rows]], NEIGHBOURS: means[rows]}


class PromptEvaluator:
    """Scores predicted embeddings against the embeddings of the prompts of `pairs`.

    The baselines are a constant prediction (the mean training embedding) and the prompts of the training image with the
    most similar features. If every image has several prompts, each prompt is also compared with the mean of the image's
    other prompts: the agreement between people. Those other prompts then compete with it for its rank.

    Args:
        pairs: images with their prompts.
        truth: (prompts, dim) embeddings of `pairs.flat_captions()`.

    Raises:
        DataError: the pairs hold no prompt.
    """

    def __init__(self, pairs: Pairs, truth: NDArray[np.floating]) -> None:
        self.pairs, self.truth = pairs, truth
        self.prompts, self.owner = pairs.flat_captions()
        if not self.prompts:
            raise DataError(f"none of the {len(pairs)} images has a prompt; evaluation needs at least one")

    def __call__(
        self, predicted: Mapping[str, NDArray[np.floating]], *, baselines: PromptBaselines | None = None
    ) -> dict[str, SimilarityScores]:
        """Score predictions.

        Args:
            predicted: name to (images, dim) predicted embeddings.
            baselines: if given, the baselines are scored too.

        Returns:
            Scores by name: of `predicted`, then of the baselines.
        """
        floor, rows = None, dict(predicted)
        if baselines is not None:
            mean = baselines.mean(len(self.pairs))
            floor = float(paired_cosines(mean, self.truth, self.owner).mean())
            rows |= {MEAN: mean, **baselines.nearest()}
        scores = {name: similarity_metrics(row, self.truth, self.owner, floor=floor) for name, row in rows.items()}
        if np.bincount(self.owner, minlength=len(self.pairs)).min() > 1:
            scores[OTHERS] = self._agreement(floor)
        return scores

    def _agreement(self, floor: float | None) -> SimilarityScores:
        """Each prompt against the mean of its image's other prompts; a sum has the direction of the mean."""
        others = _sums(self.truth, self.owner, len(self.pairs))[self.owner] - self.truth
        return similarity_metrics(others, self.truth, np.arange(len(self.truth)), floor=floor)


def evaluate_prompter(
    prompter: Prompter,
    pairs: Pairs,
    train: Pairs | None = None,
    *,
    how: PromptMethod = "retrieve",
    library: PromptLibrary | Sequence[str] | None = None,
    captioner: Captioner | None = None,
    lists: dict[str, list[str]] | None = None,
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> tuple[PromptReport, Report]:
    """Predict prompts for the images of a data set and score them against the true prompts.

    Args:
        prompter: the model.
        pairs: images with their true prompts; images that cannot be used are left out.
        train: the training data of the prompter, for the baselines. If neither the prompter nor `library` has prompts
            to retrieve from, these are used.
        how: as for `Prompter.prompt`.
        library: as for `Prompter.prompt`.
        captioner: as for `Prompter.prompt`.
        lists: as for `Prompter.prompt`.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The report, and the images that were left out with reasons.

    Raises:
        DataError: no image is left, or more than `max_bad_share` cannot be used.
        ConfigError: `how` is unknown.
        ModelError: `generate` without a captioner.
    """
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    space = prompter.space
    evaluator = PromptEvaluator(usable, space.encode_cached(usable.flat_captions()[0], progress=progress))
    features = prompter.image_features.cached(usable, progress=progress)[:, 0]
    baselines = None
    if train is not None:
        train, _ = usable_pairs(train, max_bad_share=max_bad_share, progress=progress)
        baselines = _baselines(prompter, train, features, progress)
        if library is None and not prompter.has_library:
            library = PromptLibrary.of(train.flat_captions()[0], space, progress)
    predicted = prompter.predict_features(features)
    if how == "retrieve":  # needs the predicted embeddings alone
        generated = _retrieved(prompter, predicted, library, progress)
    else:
        images = [row.image for row in usable]
        prompted = prompt_images(
            prompter, images, how=how, library=library, captioner=captioner, lists=lists, progress=progress
        )
        generated = [best[0].text for _, best in prompted]
    scores = evaluator({PROMPTER: predicted, GENERATED: space.encode(generated)}, baselines=baselines)
    return PromptReport(
        scores,
        [usable.image_ids[row] for row in evaluator.owner],
        evaluator.prompts,
        [generated[row] for row in evaluator.owner],
        paired_cosines(predicted, evaluator.truth, evaluator.owner),
    ), left_out


def _baselines(prompter: Prompter, train: Pairs, features: NDArray[np.floating], progress: Progress) -> PromptBaselines:
    """The baselines of a prompter for images with these `features`, from its training data."""
    prompts, owner = train.flat_captions()
    train_features = prompter.image_features.cached(train, progress=progress)[:, 0]
    embeddings = prompter.space.encode_cached(prompts, progress=progress)
    return PromptBaselines(embeddings, owner, features, train_features)


def _retrieved(
    prompter: Prompter,
    predicted: NDArray[np.floating],
    library: PromptLibrary | Sequence[str] | None,
    progress: Progress,
) -> list[str]:
    """The prompt of the library, or of the prompter's own, that is nearest to each prediction."""
    chosen = prompter.library if library is None else library
    if not isinstance(chosen, PromptLibrary):
        chosen = PromptLibrary.of(chosen, prompter.space, progress)
    return [prompts[0].text for prompts in chosen.nearest(predicted)]


def nearest_rows(features: NDArray[np.floating], known: NDArray[np.floating]) -> NDArray[np.int64]:
    """The row of `known` with the largest cosine to each row of `features`: (images,).

    Args:
        features: (images, width), of any length.
        known: (rows, width), of any length, at least one row.

    >>> nearest_rows(np.array([[9.0, 1.0], [0.1, 0.8]]), np.array([[1.0, 0.0], [0.0, 5.0]])).tolist()
    [0, 1]
    """
    rows, _ = top_k(normalize(np.asarray(features, np.float32)), normalize(np.asarray(known, np.float32)), 1)
    return rows[:, 0]


def mean_embeddings(embeddings: NDArray[np.floating], owner: NDArray[np.integer], images: int) -> NDArray[np.floating]:
    """The mean embedding of each image's prompts: (images, dim); zero for an image without prompts.

    Args:
        embeddings: (prompts, dim).
        owner: (prompts,) integers in [0, images): the image of each prompt.
        images: number of images.

    >>> mean_embeddings(np.array([[1.0, 0.0], [3.0, 4.0], [5.0, 5.0]]), np.array([0, 0, 2]), 3).tolist()
    [[2.0, 2.0], [0.0, 0.0], [5.0, 5.0]]
    """
    counts = np.bincount(owner, minlength=images)[:, None]  # (images, 1)
    return _sums(embeddings, owner, images) / np.maximum(counts, 1)


def _sums(embeddings: NDArray[np.floating], owner: NDArray[np.integer], images: int) -> NDArray[np.float64]:
    sums = np.zeros((images, embeddings.shape[1]))
    np.add.at(sums, owner, embeddings)
    return sums


def score_images(encoder: DualEncoder, table: MatchTable, *, progress: Progress = silent) -> NDArray[np.float64]:
    """CLIPScore (`metrics.clipscore`) of the image and prompt of each line: (lines,) in [0, 2.5].

    It is NaN if the image cannot be decoded or the prompt is empty. A prompt that occurs several times is embedded
    once. Scores of different dual encoders are not comparable.
    """
    scores = np.full(len(table.texts), np.nan)
    prompt_rows = {text: row for row, text in enumerate(dict.fromkeys(table.texts))}
    warn_of_unknown_words(encoder.unknown_texts(list(prompt_rows)))  # the words of the prefix are known
    prompts = encoder.encode_texts([PREFIX + text for text in prompt_rows])
    lines = [line for line, text in enumerate(table.texts) if text.strip()]

    def load(start: int) -> tuple[list[int], list[Image.Image]]:
        block = lines[start : start + _BATCH]
        images, good = decode_all((table.images[line] for line in block), encoder.image_size)
        return list(itertools.compress(block, good)), images

    starts = range(0, len(lines), _BATCH)
    for block, images in progress(prefetch(starts, load), len(starts), "scoring images"):
        if block:
            own = prompts[[prompt_rows[table.texts[line]] for line in block]]
            scores[block] = clip_score(encoder.encode_images(images), own)
    return scores
