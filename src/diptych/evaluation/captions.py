"""How good the captions of a data set's pictures are: written by a captioner, or by whoever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.captioning.captioner import Captioner
from diptych.captioning.many_images import caption_images
from diptych.data.doctor.inspect import Report, sound
from diptych.data.pairs import Pairs
from diptych.evaluation.metrics.caption_variety import CaptionVariety, caption_variety
from diptych.evaluation.metrics.captions import NAMES, check_ids, score_captions
from diptych.evaluation.metrics.clipscore import PREFIX, clip_score, ref_clip_score
from diptych.evaluation.metrics.ptb import TOKENIZERS, tokenize
from diptych.images.decode import Picture
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.runtime.progress import Progress, silent


@dataclass(frozen=True)
class Scorer:
    """The dual encoder that CLIPScore is computed with, and how a report calls it."""

    name: str
    encoder: DualEncoder


@dataclass(frozen=True, slots=True)
class ScoredCaption:
    """A picture, the caption that was written for it, what people wrote, and the caption's scores by key."""

    image_id: str
    image: Picture
    caption: str
    references: tuple[str, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class CaptionReport:
    """Scores of all captions together (keys as in `metrics.captions.NAMES`), of each, and what they were computed with.

    `missing` says of a score that is not there why it is not. `scorer` names the dual encoder of CLIPScore.
    """

    corpus: dict[str, float]
    captions: list[ScoredCaption]
    variety: CaptionVariety
    tokenizer: str
    scorer: str | None
    missing: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, for JSON."""
        labels = {"tokenizer": TOKENIZERS[self.tokenizer], "clipscore_model": self.scorer}
        return {**self.corpus, **self.variety.to_dict(), **labels, "missing": self.missing}

    def name(self, key: str) -> str:
        """How a report calls a score: `CLIPScore (mini)`."""
        return f"{NAMES[key]} ({self.scorer})" if "clip" in key else NAMES[key]

    def worst_first(self) -> list[ScoredCaption]:
        """By CIDEr-D, and by ROUGE-L where that is the same, which of a single picture it always is."""
        return sorted(self.captions, key=lambda each: (each.scores["cider_d"], each.scores["rouge_l"]))


class CaptionEvaluator:
    """Measures one caption for each picture of `pairs` against its captions there.

    `training` are the captions that a captioner was trained on, for the share of novel ones; with a `scorer`,
    CLIPScore and RefCLIPScore are among the scores.
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
        """Score `captions`, by the pictures' ids.

        Raises:
            DataError: a picture has no caption, or a caption no picture.
        """
        scores = score_captions(captions, self.references, tokenizer=self.tokenizer)
        variety = self._variety(list(captions.values()), scores.tokenizer)
        corpus, missing = dict(scores.corpus), dict(scores.missing)
        each = {image_id: dict(own) for image_id, own in scores.per_picture.items()}
        if self.scorer is None:
            missing["clipscore"] = "no dual encoder was named to compute it with"
        else:
            for key, values in self._clip_scores(self.scorer, captions).items():
                corpus[key] = float(values.mean())
                for image_id, value in zip(self.references, values, strict=True):
                    each[image_id][key] = float(value)
        rows = [
            ScoredCaption(row.image_id, row.image, captions[row.image_id], row.captions, each[row.image_id])
            for row in self.pairs
        ]
        name = self.scorer.name if self.scorer else None
        return CaptionReport(corpus, rows, variety, scores.tokenizer, name, missing)

    def _variety(self, captions: list[str], tokenizer: str) -> CaptionVariety:
        words, _ = tokenize([*captions, *(self.training or ())], tokenizer)
        known = None if self.training is None else words[len(captions) :]
        return caption_variety(words[: len(captions)], known)

    def _clip_scores(self, scorer: Scorer, captions: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Scores in the order of the pairs."""
        references, owner = self.pairs.flat_captions()
        images = picture_vectors(scorer.encoder, self.pairs, progress=self.progress)
        said = scorer.encoder.encode_texts([PREFIX + captions[image_id] for image_id in self.references])
        known = scorer.encoder.encode_texts([PREFIX + text for text in references])
        return {
            "clipscore": clip_score(images, said),
            "refclipscore": ref_clip_score(images, said, known, owner),
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
    """Score captions that are there already, by the ids of `pairs`; unusable pictures are left out, and reported.

    Raises:
        DataError: a picture has no caption or a caption no picture; nothing is left, or too many cannot be used.
    """
    ids = pairs.image_ids
    # captions of other pictures are told before all pictures are read, missing ones when it is known which are usable
    check_ids({**dict.fromkeys(ids, ""), **captions}, dict.fromkeys(ids, ("",)))
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
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
    max_bad_share: float = 0.1,
    progress: Progress = silent,
    **settings: Any,
) -> tuple[CaptionReport, Report]:
    """Caption the pictures of a data set and score the best caption of each; unusable pictures are left out.

    `settings` are those of `Captioner.caption`: method, beams, max_tokens and so on.

    Raises:
        DataError: nothing is left, or more than `max_bad_share` of the pictures cannot be used.
        ConfigError: a setting is out of its range.
    """
    usable, left_out = sound(pairs, max_bad_share=max_bad_share, progress=progress)
    pictures = progress(((row.image_id, row.image) for row in usable), len(usable), "writing captions")
    described = caption_images(
        pictures,
        lambda images: captioner.caption(images, **{**settings, "count": 1}),
        image_size=captioner.image_size,
    )
    said = {each.path: each.texts[0].text for each in described if each.texts}
    evaluator = CaptionEvaluator(usable, training=training, scorer=scorer, tokenizer=tokenizer, progress=progress)
    return evaluator(said), left_out
