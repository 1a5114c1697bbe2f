"""How well generated pictures keep to their prompts: a CLIPScore for each line of a table."""

from __future__ import annotations

import itertools

import numpy as np

from diptych.dual import DualEncoder
from diptych.embed import decode_all
from diptych.matching.table import MatchTable
from diptych.metrics.clipscore import PREFIX, clip_score
from diptych.prefetch import prefetch
from diptych.progress import Progress, silent

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
