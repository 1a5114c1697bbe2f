"""Evaluation of captions: those that a captioner generates, or given ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.captioning.captioner import Captioner
from diptych.captioning.many_images import caption_images
from diptych.captioning.strategies import GenerationConfig
from diptych.data.doctor.inspect import Report, usable_pairs
from diptych.data.pairs import Pairs
from diptych.evaluation.metrics.caption_variety import CaptionVariety, caption_variety
from diptych.evaluation.metrics.captions import NAMES, check_ids, score_captions
from diptych.evaluation.metrics.clipscore import PREFIX, clip_score, ref_clip_score
from diptych.evaluation.metrics.ptb import TOKENIZERS, tokenize
from diptych.images.decode import ImageSource
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.runtime.progress import Progress, silent


@dataclass(frozen=True)
class Scorer:
    """The dual encoder for CLIPScore, and its name in reports."""

    name: str
    encoder: DualEncoder


@dataclass(frozen=True, slots=True)
class ScoredCaption:
    """An image, its evaluated caption, the reference captions, and the caption's scores by key."""

    image_id: str
    image: ImageSource
    caption: str
    references: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class CaptionReport:
    """Scores of a set of captions.

    Attributes:
        corpus: corpus scores; keys as in `metrics.captions.NAMES`.
        captions: each image's caption with its own scores.
        variety: length, vocabulary, repetition and novelty.
        tokenizer: key of `metrics.ptb.TOKENIZERS`.
        scorer: name of the dual encoder of CLIPScore; None if it was not computed.
        missing: score to the reason why it was not computed.
    """

    corpus: dict[str, float]
    captions: list[ScoredCaption]
    variety: CaptionVariety
    tokenizer: str
    scorer: str | None
    missing: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Everything except the captions of single images, for JSON."""
        labels = {"tokenizer": TOKENIZERS[self.tokenizer], "clipscore_model": self.scorer}
        return {**self.corpus, **self.variety.to_dict(), **labels, "missing": self.missing}

    def name(self, key: str) -> str:
        """Display name of a score, such as `CLIPScore (mini)`."""
        return f"{NAMES[key]} ({self.scorer})" if "clip" in key else NAMES[key]

    def worst_first(self) -> list[ScoredCaption]:
        """The captions by CIDEr-D, lowest first; equal ones, such as that of a single image, by ROUGE-L."""
        return sorted(self.captions, key=lambda caption: (caption.scores["cider_d"], caption.scores["rouge_l"]))


class CaptionEvaluator:
    """Scores one caption for each image of `pairs` against the captions of `pairs`.

    Args:
        pairs: images with reference captions.
        training: captions that the captioner was trained on, for the fraction of novel captions.
        scorer: dual encoder for CLIPScore and RefCLIPScore; without one they are not computed.
        tokenizer: `ptb`, `fallback`, or `auto` (see `metrics.ptb.tokenize`).
        progress: reports progress.
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        training: Sequence[str] | None = None,
        scorer: Scorer | None = None,
        tokenizer: str = "auto",
        progress: Progress = silent,
    ) -> None:
        self.pairs, self.training, self.scorer = pairs, training, scorer
        self.tokenizer, self.progress = tokenizer, progress
        self.references = {row.image_id: row.captions for row in pairs}

    def __call__(self, captions: Mapping[str, str]) -> CaptionReport:
        """Score captions, given by image id.

        Raises:
            DataError: an image has no caption, or a caption no image.
        """
        scores = score_captions(captions, self.references, tokenizer=self.tokenizer)
        variety = self._variety(list(captions.values()), scores.tokenizer)
        corpus, missing = dict(scores.corpus), dict(scores.missing)
        per_image = {image_id: dict(own) for image_id, own in scores.per_image.items()}
        if self.scorer is None:
            missing["clipscore"] = "no dual encoder was given"
        else:
            for key, values in self._clip_scores(self.scorer, captions).items():
                corpus[key] = float(values.mean())
                for image_id, value in zip(self.references, values, strict=True):
                    per_image[image_id][key] = float(value)
        rows = [
            ScoredCaption(row.image_id, row.image, captions[row.image_id], row.captions, per_image[row.image_id])
            for row in self.pairs
        ]
        name = self.scorer.name if self.scorer else None
        return CaptionReport(corpus, rows, variety, scores.tokenizer, name, missing)

    def _variety(self, captions: list[str], tokenizer: str) -> CaptionVariety:
        words, _ = tokenize([*captions, *(self.training or ())], tokenizer)
        known = None if self.training is None else words[len(captions) :]
        return caption_variety(words[: len(captions)], known)

    def _clip_scores(self, scorer: Scorer, captions: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
        """(images,) CLIPScore and RefCLIPScore, in the order of the pairs."""
        references, owner = self.pairs.flat_captions()
        images = dataset_image_embeddings(scorer.encoder, self.pairs, progress=self.progress)
        warn_of_unknown_words(scorer.encoder.unknown_texts([*captions.values(), *references]))  # the prefix is known
        texts = scorer.encoder.encode_texts([PREFIX + captions[image_id] for image_id in self.references])
        reference_texts = scorer.encoder.encode_texts([PREFIX + text for text in references])
        return {
            "clipscore": clip_score(images, texts),
            "refclipscore": ref_clip_score(images, texts, reference_texts, owner),
        }


def evaluate_captions(
    captions: Mapping[str, str],
    pairs: Pairs,
    *,
    training: Sequence[str] | None = None,
    scorer: Scorer | None = None,
    tokenizer: str = "auto",
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> tuple[CaptionReport, Report]:
    """Score given captions.

    Args:
        captions: image id to caption, one for each image of `pairs`.
        pairs: images with reference captions; images that cannot be used are left out.
        training: as for `CaptionEvaluator`.
        scorer: as for `CaptionEvaluator`.
        tokenizer: as for `CaptionEvaluator`.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The report, and the images that were left out with reasons.

    Raises:
        DataError: an image has no caption or a caption no image; no image is left, or more than `max_bad_share` cannot
            be used.
    """
    ids = pairs.image_ids
    # Captions of unknown images are reported before images are read, missing captions once the usable images are known.
    check_ids({**dict.fromkeys(ids, ""), **captions}, dict.fromkeys(ids, ("",)))
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    unusable = set(ids) - set(usable.image_ids)
    evaluator = CaptionEvaluator(usable, training=training, scorer=scorer, tokenizer=tokenizer, progress=progress)
    return evaluator({name: caption for name, caption in captions.items() if name not in unusable}), left_out


def evaluate_captioner(
    captioner: Captioner,
    pairs: Pairs,
    *,
    training: Sequence[str] | None = None,
    scorer: Scorer | None = None,
    tokenizer: str = "auto",
    generation: GenerationConfig | None = None,
    prefix: str = "",
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> tuple[CaptionReport, Report]:
    """Caption the images of a data set and score the best caption of each.

    Args:
        captioner: the captioner.
        pairs: images with reference captions; images that cannot be used are left out.
        training: as for `CaptionEvaluator`.
        scorer: as for `CaptionEvaluator`.
        tokenizer: as for `CaptionEvaluator`.
        generation: decoding strategy and its settings; by default beam search with three beams.
        prefix: text that every caption begins with.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Returns:
        The report, and the images that were left out with reasons.

    Raises:
        DataError: no image is left, more than `max_bad_share` cannot be used, or an image gets no caption.
        ConfigError: there is no tokenizer of that name.
    """
    usable, left_out = usable_pairs(pairs, max_bad_share=max_bad_share, progress=progress)
    images = progress(((row.image_id, row.image) for row in usable), len(usable), "writing captions")
    generate = functools.partial(captioner.caption_with, config=generation or GenerationConfig(), prefix=prefix)
    results = caption_images(images, generate, image_size=captioner.image_size)
    captions = {result.path: result.texts[0].text for result in results if result.texts}
    evaluator = CaptionEvaluator(usable, training=training, scorer=scorer, tokenizer=tokenizer, progress=progress)
    return evaluator(captions), left_out
