"""How well a prompter does on pictures whose prompts are known, beside what needs no prompter at all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.doctor.inspect import Report, sound
from diptych.data.pairs import Pairs
from diptych.errors import DataError
from diptych.evaluation.metrics.clipscore import PREFIX, clip_score
from diptych.evaluation.metrics.similarity import SimilarityScores, paired_cosines, similarity_metrics
from diptych.matching.match_table import MatchTable
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import decode_all
from diptych.prompting.library import PromptLibrary
from diptych.prompting.many_images import prompt_pictures
from diptych.prompting.prompter import Prompter
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

MEAN, OTHERS = "mean embedding", "other prompts"
NEIGHBOUR, NEIGHBOURS = "nearest's prompt", "nearest's mean"
_BLOCK = 512


@dataclass(frozen=True)
class PromptReport:
    """Scores by name: `prompter`, what it `said` in words, the baselines, and the other prompts of the same picture.

    `cosines` (prompts,) are of `prompter`, for `prompts` and the pictures `image_ids`; `said` has a text a prompt.
    """

    scores: dict[str, SimilarityScores]
    image_ids: list[str]
    prompts: list[str]
    said: list[str]
    cosines: np.ndarray

    def as_dict(self) -> dict[str, dict[str, float | int | None]]:
        return {name: scores.as_dict() for name, scores in self.scores.items()}

    def lines(self) -> list[tuple[str, str, str, str]]:
        """The lines of `test_results.csv`: imgId, prompt, predicted, cosine."""
        told = (f"{cosine:.4f}" for cosine in self.cosines)
        return list(zip(self.image_ids, self.prompts, self.said, told, strict=True))


class PromptEvaluator:
    """Measures predicted vectors against the prompts of `pairs`; `truth` holds their vectors, (prompts, dim).

    Baselines are of the training part: its mean vector for every picture, and of the training picture that looks most
    alike the first prompt and the mean of all. Where pictures have several prompts, each is compared with the mean of
    its siblings too, which says how near people come to each other; these siblings compete for its rank.

    Raises:
        DataError: the pairs hold no prompt.
    """

    def __init__(self, pairs: Pairs, truth: np.ndarray) -> None:
        self.pairs, self.truth = pairs, truth
        self.prompts, self.owner = pairs.flat_captions()
        if not self.prompts:
            raise DataError(f"none of the {len(pairs)} pictures has a prompt; measuring needs at least one")

    def __call__(
        self,
        predicted: dict[str, np.ndarray],
        *,
        train_truth: np.ndarray | None = None,
        train_owner: np.ndarray | None = None,
        features: np.ndarray | None = None,
        train_features: np.ndarray | None = None,
    ) -> dict[str, SimilarityScores]:
        """Score (pictures, dim) vectors by name; with the training part's, the baselines too."""
        floor, rows = None, dict(predicted)
        if train_truth is not None:
            mean = np.broadcast_to(train_truth.mean(0), (len(self.pairs), train_truth.shape[1]))
            floor = float(paired_cosines(mean, self.truth, self.owner).mean())
            rows[MEAN] = mean
            if train_owner is not None and features is not None and train_features is not None:
                near = nearest_rows(features, train_features)
                firsts = np.unique(train_owner, return_index=True)[1]
                rows[NEIGHBOUR] = train_truth[firsts[near]]
                rows[NEIGHBOURS] = _means(train_truth, train_owner, len(train_features))[near]
        scores = {name: similarity_metrics(row, self.truth, self.owner, floor=floor) for name, row in rows.items()}
        counts = np.bincount(self.owner, minlength=len(self.pairs))
        if counts.min() > 1:
            scores[OTHERS] = self._siblings(counts, floor)
        return scores

    def _siblings(self, counts: np.ndarray, floor: float | None) -> SimilarityScores:
        """Each prompt against the mean of its picture's others."""
        sums = np.zeros((len(self.pairs), self.truth.shape[1]))
        np.add.at(sums, self.owner, self.truth)
        others = sums[self.owner] - self.truth
        return similarity_metrics(others, self.truth, np.arange(len(self.truth)), floor=floor)


def evaluate_prompter(
    prompter: Prompter,
    pairs: Pairs,
    train: Pairs | None = None,
    *,
    max_bad_share: float = 0.1,
    progress: Progress = silent,
    library: PromptLibrary | None = None,
    **wishes: Any,
) -> tuple[PromptReport, Report]:
    """Predict and say the prompts of a data set and score them; pictures that cannot be used are left out.

    `train` is what the prompter was trained on, for the baselines and, where neither the prompter nor `library` brings
    prompts to retrieve from, for these. `wishes` are those of `Prompter.say`.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
    """
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    space = prompter.space
    evaluator = PromptEvaluator(usable, space.vectors(usable.flat_captions()[0], progress=progress))
    known: dict[str, np.ndarray] = {}
    features = prompter.pictures.stored(usable, progress=progress)[:, 0]
    if train is not None:
        train, _ = sound(train, max_bad_share=max_bad_share, progress=progress)
        prompts, owner = train.flat_captions()
        known = {"train_truth": space.vectors(prompts, progress=progress), "train_owner": owner}
        known |= {"features": features, "train_features": prompter.pictures.stored(train, progress=progress)[:, 0]}
        if library is None and not prompter.has_library:
            library = PromptLibrary.of(prompts, space, progress)
    predicted = prompter.predict_features(features)
    said = _said(prompter, usable, predicted, progress, library=library, **wishes)
    scores = evaluator({"prompter": predicted, "what it says": space.encode(said)}, **known)
    owner = evaluator.owner
    return PromptReport(
        scores,
        [usable.image_ids[row] for row in owner],
        evaluator.prompts,
        [said[row] for row in owner],
        paired_cosines(predicted, evaluator.truth, owner),
    ), left_out


def _said(prompter: Prompter, pairs: Pairs, predicted: np.ndarray, progress: Progress, **wishes: Any) -> list[str]:
    """The best prompt for each picture; retrieving needs the predicted vectors alone."""
    if wishes.get("how", "retrieve") == "retrieve":
        library = wishes.get("library") or prompter.library
        return [found[0].text for found in library.nearest(predicted)]
    pictures = [row.image for row in pairs]
    return [found[0].text for _, found in prompt_pictures(prompter, pictures, progress=progress, **wishes)]


def nearest_rows(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The row of `known` (rows, width) with the highest cosine to each of (pictures, width): (pictures,) int64."""
    unit = _unit(np.asarray(known, np.float32))
    blocks = (np.asarray(features[at : at + _BLOCK], np.float32) for at in range(0, len(features), _BLOCK))
    return np.concatenate([np.argmax(_unit(block) @ unit.T, axis=1) for block in blocks])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _means(vectors: np.ndarray, owner: np.ndarray, pictures: int) -> np.ndarray:
    """The mean vector of each picture's prompts: (pictures, dim)."""
    sums = np.zeros((pictures, vectors.shape[1]), np.float32)
    np.add.at(sums, owner, vectors)
    return sums


_BATCH = 32


def score_pictures(encoder: DualEncoder, table: MatchTable, *, progress: Progress = silent) -> np.ndarray:
    """The CLIPScore of each line's picture and prompt (`metrics.clipscore`): (lines,) float64 in [0, 2.5].

    NaN where the picture cannot be decoded or the prompt is empty. A prompt that comes many times is embedded once.
    Scores of different dual encoders cannot be compared.
    """
    scores = np.full(len(table.texts), np.nan)
    wordings = {text: at for at, text in enumerate(dict.fromkeys(table.texts))}
    prompts = encoder.encode_texts([PREFIX + text for text in wordings])
    lines = [at for at, text in enumerate(table.texts) if text.strip()]

    def load(start: int) -> tuple[list[int], list]:
        block = lines[start : start + _BATCH]
        images, good = decode_all((table.pictures[at] for at in block), encoder.image_size)
        return list(itertools.compress(block, good)), images

    starts = range(0, len(lines), _BATCH)
    for places, images in progress(prefetch(starts, load), len(starts), "scoring pictures"):
        if places:
            own = prompts[[wordings[table.texts[at]] for at in places]]
            scores[places] = clip_score(encoder.encode_images(images), own)
    return scores
