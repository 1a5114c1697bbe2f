"""Prompts for many images: decodes in the background and runs the prompter batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from PIL import Image

from diptych.images.decode import Picture
from diptych.models.embedding_cache import decode_all
from diptych.prompting.library import Prompt, PromptLibrary
from diptych.prompting.prompter import Captioner, How, Prompter
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_BATCH = 32


def prompt_pictures(
    prompter: Prompter,
    pictures: Sequence[Picture],
    *,
    how: How = "retrieve",
    count: int = 1,
    library: PromptLibrary | Sequence[str] | None = None,
    captioner: Captioner | None = None,
    lists: dict[str, list[str]] | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[int, list[Prompt]]]:
    """Yield (index, prompts) for each image, in order; the list is empty if the image cannot be decoded.

    The options are those of `Prompter.say`; see there for the errors.
    """

    def load(start: int) -> tuple[range, list[Image.Image], list[bool]]:
        indices = range(start, min(start + _BATCH, len(pictures)))
        images, good = decode_all((pictures[index] for index in indices), prompter.pictures.image_size)
        return indices, images, good.tolist()

    starts = range(0, len(pictures), _BATCH)
    for indices, images, good in progress(prefetch(starts, load), len(starts), "writing prompts"):
        prompts = prompter.say(images, how=how, count=count, library=library, captioner=captioner, lists=lists)
        by_index = dict(zip(itertools.compress(indices, good), prompts, strict=True))
        yield from ((index, by_index.get(index, [])) for index in indices)
