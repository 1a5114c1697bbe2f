"""Prompts for many pictures: decoded beside the models, a batch at a time; what cannot be decoded is told apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from diptych.images.decode import Picture
from diptych.models.embedding_cache import decode_all
from diptych.prompting.library import Prompt
from diptych.prompting.prompter import Prompter
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_BATCH = 32


def prompt_pictures(
    prompter: Prompter, pictures: Sequence[Picture], *, progress: Progress = silent, **wishes: Any
) -> Iterator[tuple[int, list[Prompt]]]:
    """(place, prompts) of each picture in order; no prompts where a picture cannot be decoded.

    `wishes` are those of `Prompter.say`. A library of texts is embedded once.
    """

    def load(start: int) -> tuple[range, list[Any], list[bool]]:
        places = range(start, min(start + _BATCH, len(pictures)))
        images, good = decode_all((pictures[at] for at in places), prompter.pictures.image_size)
        return places, images, good.tolist()

    starts = range(0, len(pictures), _BATCH)
    for places, images, good in progress(prefetch(starts, load), len(starts), "saying prompts"):
        said = dict(zip(itertools.compress(places, good), prompter.say(images, **wishes), strict=True))
        yield from ((at, said.get(at, [])) for at in places)
