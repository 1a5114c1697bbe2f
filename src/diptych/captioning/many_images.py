"""Captions of many images: decoded in background threads, a batch at a time, with a named error for each failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from diptych.captioning.candidates import Candidate, Chosen
from diptych.captioning.captioner import batches_of
from diptych.captioning.strategies import Caption
from diptych.errors import ImageError
from diptych.images.decode import ImageSource, decode
from diptych.runtime.background import prefetch

Text = Caption | Candidate | Chosen
_NO_WORDS = "the model generated no word for it; try another method or more beams"
CaptionFunction = Callable[[list[Image.Image]], Sequence[Sequence[Text]]]
"""Texts for each of some images, best first: of a captioner, of `choose`, or of a `Ranker`."""


@dataclass(frozen=True)
class CaptionResult:
    """The texts of one image, or the reason why it has none.

    Attributes:
        path: Path of the image.
        texts: Its texts, best first.
        reason: A reason of `ImageError` or `no_words`; None if there are texts.
        message: The reason as a sentence.
    """

    path: str
    texts: Sequence[Text] = ()
    reason: str | None = None
    message: str | None = None


def caption_images(
    sources: Iterable[tuple[str, ImageSource]],
    describe: CaptionFunction,
    *,
    image_size: int | None = None,
    batch_size: int = 16,
) -> Iterator[CaptionResult]:
    """The texts of each image, in order, while the next batches are decoded in background threads.

    Args:
        sources: (path, image) pairs.
        describe: Generates the texts of a batch.
        image_size: Input side of the model in pixels. Larger images are decoded at reduced size, which is several times
            faster for JPEGs.
        batch_size: Images in one call of `describe`.
    """

    def load(batch: list[tuple[str, ImageSource]]) -> list[tuple[str, Image.Image | ImageError]]:
        return [(path, _decoded(source, image_size)) for path, source in batch]

    for loaded in prefetch(batches_of(sources, batch_size), load):
        images = [image for _, image in loaded if isinstance(image, Image.Image)]
        described = iter(describe(images) if images else [])
        for path, image in loaded:
            if isinstance(image, ImageError):
                yield CaptionResult(path, reason=image.reason, message=str(image))
            else:
                texts = next(described)
                yield CaptionResult(path, texts) if texts else CaptionResult(path, reason="no_words", message=_NO_WORDS)


def _decoded(source: ImageSource, image_size: int | None) -> Image.Image | ImageError:
    try:
        image = decode(source, min_side=image_size)
    except ImageError as error:
        return error
    factor = min(image.size) // (2 * image_size) if image_size else 1  # leaves twice the size for the final resize
    return image.reduce(factor) if factor > 1 else image
