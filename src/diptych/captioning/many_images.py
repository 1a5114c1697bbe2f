"""Captions for many pictures: decoded beside the model, a batch at a time; each gets captions or a named error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from diptych.captioning.candidates import Candidate, Chosen
from diptych.captioning.captioner import batches_of
from diptych.captioning.strategies import Caption
from diptych.errors import ImageError
from diptych.images.decode import Picture, decode
from diptych.runtime.background import prefetch

Text = Caption | Candidate | Chosen
_WORDLESS = "the model wrote no word for it; try another method or more beams"
CaptionFunction = Callable[[list[Image.Image]], list[list[Any]]]
"""Texts for each of some pictures, best first: of a captioner, of `choose`, or of `rank_candidates`."""


@dataclass(frozen=True)
class CaptionResult:
    """A picture by its path, with its texts, best first; or the reason why it has none.

    That is one of `ImageError`'s, or `no_words`.
    """

    path: str
    texts: Sequence[Text] = ()
    reason: str | None = None
    message: str | None = None


def caption_images(
    pictures: Iterable[tuple[str, Picture]],
    describe: CaptionFunction,
    *,
    image_size: int | None = None,
    batch_size: int = 16,
) -> Iterator[CaptionResult]:
    """The texts of each picture, in order.

    Some batches of pictures wait for the model. They are made smaller as far as `image_size` pixels are enough for it,
    which decodes a JPEG several times faster.
    """

    def load(batch: list[tuple[str, Picture]]) -> list[tuple[str, Image.Image | ImageError]]:
        return [(path, _decoded(picture, image_size)) for path, picture in batch]

    for loaded in prefetch(batches_of(pictures, batch_size), load):
        images = [image for _, image in loaded if isinstance(image, Image.Image)]
        found = iter(describe(images) if images else [])
        for path, image in loaded:
            if isinstance(image, ImageError):
                yield CaptionResult(path, reason=image.reason, message=str(image))
            else:
                texts = next(found)
                yield CaptionResult(path, texts) if texts else CaptionResult(path, reason="no_words", message=_WORDLESS)


def _decoded(picture: Picture, image_size: int | None) -> Image.Image | ImageError:
    try:
        image = decode(picture, min_side=image_size)
    except ImageError as error:
        return error
    spare = min(image.size) // (2 * image_size) if image_size else 1  # a resizing to come is then still a fine one
    return image.reduce(spare) if spare > 1 else image
