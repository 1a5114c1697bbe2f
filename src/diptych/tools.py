"""What an agent can do with pictures: five tools over one service, each told in words and shown as thumbnails."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from diptych.any_picture import AnyPicture, decoded
from diptych.errors import ConfigError, DataError
from diptych.images import thumbnail
from diptych.index.results import Hit, Results
from diptych.modalities import several_texts
from diptych.service import Service

_ID = re.compile("[0-9a-f]{32}")
_MOST = 20  # pictures that one answer shows: a model reads every one of them
_SKIPPED = 10
_SIDE = 256  # pixels of a thumbnail's longer side


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer in words, and the pictures that it speaks of, small, in the order in which it names them."""

    text: str
    pictures: tuple[Image.Image, ...] = ()


class Tools:
    """Five tools. A picture is an id of the index, a path inside the service's roots, or a data: URL."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def search_pictures(self, query: str, count: int = 5) -> Shown:
        """The pictures of the library that show what the query says."""
        return self._found(self.service.search(query, count=_at_most(count)))

    def find_similar(self, picture: str, count: int = 5) -> Shown:
        """The pictures of the library that are most like another."""
        if _ID.fullmatch(picture):
            return self._found(self.service.similar(picture, count=_at_most(count)))
        return self._found(self.service.search(image=self._picture(picture), count=_at_most(count)))

    def caption_picture(self, picture: str) -> Shown:
        """What a picture shows, in a sentence, and how sure that is."""
        image = decoded(self._picture(picture))
        told = self.service.caption([image])[0]
        sure = "" if told.confidence is None else f" (confidence {told.confidence:.0%})"
        return Shown(f"{told.best}{sure}", (thumbnail(image, _SIDE),))

    def match_picture(self, picture: str, texts: Sequence[str]) -> Shown:
        """The probability of each text that it describes the picture."""
        image = decoded(self._picture(picture))
        texts = several_texts(texts)
        found = self.service.match(image, texts)
        lines = [f"{probability:.3f} {text}" for text, probability in zip(texts, found, strict=True)]
        return Shown("\n".join(["probability of a match, from 0 to 1:", *lines]), (thumbnail(image, _SIDE),))

    def index_folder(self, path: str) -> Shown:
        """Bring the library up to date with a folder inside the roots."""
        added = self.service.add(path, wait=0)
        lines = [f"{added.summary()} in {added.seconds:.1f} s; the library has {self.service.status()['pictures']:,}"]
        lines += [f"skipped {each.path}: {each.reason}" for each in added.skipped[:_SKIPPED]]
        if (rest := len(added.skipped) - _SKIPPED) > 0:
            lines.append(f"and {rest:,} more were skipped")
        return Shown("\n".join(lines))

    def _picture(self, name: str) -> AnyPicture:
        """The picture that an agent names.

        Raises:
            DataError: the path is outside the roots or not there, or there is no such id.
        """
        if name[:5].lower() == "data:":
            try:
                return base64.b64decode(name.partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise DataError(f"the data: URL is not in base64 ({error})") from None
        if not _ID.fullmatch(name):
            return self.service.allowed(name)
        return self.service.picture_bytes(name)

    def _found(self, results: Results) -> Shown:
        """Hits in words, and a thumbnail of each whose file is still there."""
        lines, pictures = [results.message], []
        for rank, hit in enumerate(results, results.first_rank):
            lines.append(f"{rank}. id {hit.id}, score {hit.score:.3f}, {hit.path}{_caption(hit)}")
            try:
                pictures.append(self.service.picture(hit.id, size=_SIDE))
            except DataError as error:
                lines.append(f"   (not shown: {error})")
        return Shown("\n".join(lines), tuple(pictures))


def jpeg(image: Image.Image) -> bytes:
    """A thumbnail's bytes."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _caption(hit: Hit) -> str:
    return f", caption: {hit.caption.splitlines()[0]}" if hit.caption else ""


def _at_most(count: int) -> int:
    if not 1 <= count <= _MOST:
        raise ConfigError(f"count is {count}; ask for 1 to {_MOST} pictures")
    return count
