"""Prompts for many images: decodes in the background and runs the prompter batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from PIL import Image

from diptych.images.decode import ImageSource
from diptych.models.embedding_cache import decode_all
from diptych.prompting.library import Prompt, PromptLibrary
from diptych.prompting.prompter import Captioner, Prompter, PromptMethod
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent

_BATCH = 32


def prompt_images(
    prompter: Prompter,
    sources: Sequence[ImageSource],
    *,
    how: PromptMethod = "retrieve",
    k: int = 1,
    library: PromptLibrary | Sequence[str] | None = None,
    captioner: Captioner | None = None,
    lists: dict[str, list[str]] | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[int, list[Prompt]]]:
    """Yield (index, prompts) for each image, in order; the list is empty if the image cannot be decoded.

    The options are those of `Prompter.prompt`; see there for the errors.
    """

    def load(start: int) -> tuple[range, list[Image.Image], list[bool]]:
        indices = range(start, min(start + _BATCH, len(sources)))
        images, good = decode_all((sources[index] for index in indices), prompter.image_features.image_size)
        return indices, images, good.tolist()

    starts = range(0, len(sources), _BATCH)
    for indices, images, good in progress(prefetch(starts, load), len(starts), "writing prompts"):
        prompts = prompter.prompt(images, how=how, k=k, library=library, captioner=captioner, lists=lists)
        by_index = dict(zip(itertools.compress(indices, good), prompts, strict=True))
        yield from ((index, by_index.get(index, [])) for index in indices)
