"""Five tools over an image library; each answers with text, structured data and thumbnails.

File names, captions and other text that comes with images is quoted as JSON strings, one line per image, so that
none of it can pass for a line of the answer or for a message of diptych or the user.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from PIL import Image

from diptych.errors import ConfigError, DataError
from diptych.images.decode import thumbnail
from diptych.images.source import decoded
from diptych.models.modalities import as_texts
from diptych.runtime.quoting import printable, to_json
from diptych.search.results import Hit, Results
from diptych.serving.service import Service

DEFAULT_K = 5
MAX_K = 20  # images in one answer: a model reads all of them

# Descriptions of the arguments, for MCP and smolagents.
QUERY = "description of the images to find, in plain language"
K = f"maximum number of images, 1 to {MAX_K}"
IMAGE = (
    "an image: its id from a search result, a path inside an allowed folder (absolute, relative to that folder, or a "
    "file: URI), or a data: URL"
)
TEXTS = "texts that may describe the image"
FOLDER = "path of an allowed folder or of a folder inside one: absolute, relative to an allowed folder, or a file: URI"

_ID = re.compile("[0-9a-f]{32}")
_MAX_TEXTS = 64  # that one call matches
_MAX_SKIPPED = 10  # skipped files that an answer lists
_THUMBNAIL_SIDE = 256  # pixels of the longer side


class HitData(TypedDict):
    """A search hit as structured data; `caption` is the first caption of the image, or None."""

    rank: int
    id: str
    score: float
    path: str
    caption: str | None


class SearchData(TypedDict):
    """The answer of `search_images` and `find_similar`: the outcome in a sentence, and the hits, best first."""

    outcome: str
    hits: list[HitData]


class CaptionData(TypedDict):
    """The answer of `caption_image`; `confidence` is P(match) in [0, 1], None without a matcher."""

    caption: str
    confidence: float | None


class MatchedText(TypedDict):
    """A text and its P(match) with the image, in [0, 1]."""

    text: str
    probability: float


class MatchData(TypedDict):
    """The answer of `match_image`, in the order of the texts."""

    matches: list[MatchedText]
    unknown: list[str]


class SkippedFile(TypedDict):
    """A file that was not indexed, and why."""

    path: str
    reason: str


class FolderData(TypedDict):
    """The answer of `index_folder`: what was done, how many images the library has, and the first skipped files."""

    summary: str
    images: int
    skipped: list[SkippedFile]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer of a tool: text, the same as data that JSON can hold, and thumbnails in the order of the text."""

    text: str
    data: SearchData | CaptionData | MatchData | FolderData
    thumbnails: tuple[Image.Image, ...] = ()


class Tools:
    """The five tools.

    An image is named by its id in the index, by a path or `file:` URI inside the service's roots, by a path relative
    to one of the roots, or by a data: URL. Each tool raises the errors of the `Service` method that it calls.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def search_images(self, query: str, k: int = DEFAULT_K) -> ToolResult:
        """The images of the library that match a text, at most `k` (1 to 20).

        Raises:
            ConfigError: the query is empty, or `k` is out of range.
        """
        return self._hits(self.service.search(query, k=_checked_k(k)))

    def find_similar(self, image: str, k: int = DEFAULT_K) -> ToolResult:
        """The images of the library that are most similar to an image, at most `k` (1 to 20).

        Raises:
            ConfigError: `k` is out of range.
            DataError: there is no such image.
        """
        if _ID.fullmatch(image):
            return self._hits(self.service.similar(image, k=_checked_k(k)))
        return self._hits(self.service.search(image=self._named_image(image), k=_checked_k(k)))

    def caption_image(self, image: str) -> ToolResult:
        """A caption of the image and, if there is a matcher, the confidence in [0, 1].

        Raises:
            DataError: there is no such image.
            ModelError: there is no captioner.
        """
        opened = decoded(self._named_image(image))
        result = self.service.caption([opened])[0]
        confidence = "" if result.confidence is None else f", confidence {result.confidence:.0%}"
        data: CaptionData = {"caption": result.best, "confidence": result.confidence}
        return ToolResult(f"caption {to_json(result.best)}{confidence}", data, (thumbnail(opened, _THUMBNAIL_SIDE),))

    def match_image(self, image: str, texts: Sequence[str]) -> ToolResult:
        """The probability that each text describes the image, in [0, 1], in the order of the texts.

        Raises:
            ConfigError: a text is empty, or there are none or more than 64.
            DataError: there is no such image.
            ModelError: there is no matcher.
        """
        texts = as_texts(texts)
        if not texts:
            raise ConfigError(f"there are no texts to match; pass 1 to {_MAX_TEXTS}")
        if len(texts) > _MAX_TEXTS:
            raise ConfigError(f"there are {len(texts):,} texts; pass at most {_MAX_TEXTS} at once")
        opened = decoded(self._named_image(image))
        probabilities = [float(probability) for probability in self.service.match(opened, texts)]
        lines = [f"{probability:.3f} {to_json(text)}" for text, probability in zip(texts, probabilities, strict=True)]
        matches = [MatchedText(text=text, probability=p) for text, p in zip(texts, probabilities, strict=True)]
        unknown = self.service.unknown_texts(texts, "matcher")
        if unknown:
            lines.append(f"the model does not know these words, so their numbers say nothing: {to_json(unknown)}")
        text = "\n".join(["match probability, from 0 to 1:", *lines])
        return ToolResult(text, {"matches": matches, "unknown": unknown}, (thumbnail(opened, _THUMBNAIL_SIDE),))

    def index_folder(self, path: str) -> ToolResult:
        """Index a folder inside the roots, or update the index if the folder is already indexed.

        Raises:
            DataError: the folder does not exist or is outside the roots.
            IndexBusy: another process is writing to the index.
        """
        added = self.service.add(path, wait=0)
        images = self.service.status().images
        lines = [f"{added.summary()} in {added.seconds:.1f} s; the library has {images:,}"]
        skipped = [SkippedFile(path=file.path, reason=file.reason) for file in added.skipped[:_MAX_SKIPPED]]
        lines += [f"skipped {to_json(file['path'])}: {file['reason']}" for file in skipped]
        if (rest := len(added.skipped) - _MAX_SKIPPED) > 0:
            lines.append(f"and {rest:,} more were skipped")
        return ToolResult("\n".join(lines), {"summary": added.summary(), "images": images, "skipped": skipped})

    def _named_image(self, name: str) -> bytes:
        """The bytes of the image that an agent named.

        Raises:
            DataError: the path is outside the roots or does not exist, the id is unknown, or the URL is not base64.
        """
        if name[:5].lower() == "data:":
            try:
                return base64.b64decode(name.partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise DataError(f"the data: URL is not valid base64 ({error})") from None
        if not _ID.fullmatch(name):
            return self.service.read_allowed(name)
        return self.service.image_bytes(name)

    def _hits(self, results: Results) -> ToolResult:
        """Hits as an answer, with a thumbnail of each image that can still be read."""
        lines, thumbnails = [_outcome(results)], list[Image.Image]()
        hits: list[HitData] = []
        for rank, hit in enumerate(results, results.first_rank):
            data = _hit_data(hit, rank)
            line = f"{rank}. id {hit.id}, score {hit.score:.3f}, path {to_json(hit.path)}"
            line += f", caption {to_json(data['caption'])}" if data["caption"] else ""
            try:
                thumbnails.append(self.service.image(hit.id, size=_THUMBNAIL_SIDE))
            except DataError as error:
                line += f" (not shown: {to_json(str(error))})"
            lines.append(line)
            hits.append(data)
        return ToolResult("\n".join(lines), {"outcome": lines[0], "hits": hits}, tuple(thumbnails))


def jpeg_bytes(image: Image.Image) -> bytes:
    """A thumbnail encoded as JPEG."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _outcome(results: Results) -> str:
    """The outcome of a search in a sentence, with the query and the nearest image quoted."""
    query = to_json(results.query)
    if results.unknown:
        return f"the model does not know these words: {to_json(list(results.unknown))}; describe it in other words"
    if results.nothing_found and results.searched and results.nearest is not None:
        nearest = to_json(results.nearest.path)
        return f"no matches for {query} among {results.searched:,} images; closest, below the cutoff: path {nearest}"
    return f"{query}: {results.counted}" if results.hits else printable(results.message)


def _hit_data(hit: Hit, rank: int) -> HitData:
    caption = (hit.caption or "").split("\n")[0]
    return {"rank": rank, "id": hit.id, "score": round(hit.score, 3), "path": hit.path, "caption": caption or None}


def _checked_k(k: int) -> int:
    number = int(k) if str(k).isdecimal() else 0  # language models also send numbers as text
    if not 1 <= number <= MAX_K:
        raise ConfigError(f"k is {k}; it must be a whole number from 1 to {MAX_K}")
    return number
