"""What an agent can do with pictures: five tools over one service, each told in words and shown as thumbnails.

File names, captions and other texts that come with pictures stand in JSON quotes, one line for each picture, so that
none of them reads as a further line of the answer or as something that diptych or the user says.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from diptych.errors import ConfigError, DataError
from diptych.images.decode import thumbnail
from diptych.images.source import ImageLike, decoded
from diptych.models.modalities import several_texts
from diptych.runtime.quoting import printable, to_json
from diptych.search.results import Hit, Results
from diptych.serving.service import Service

_ID = re.compile("[0-9a-f]{32}")
_MOST = 20  # pictures that one answer shows: a model reads every one of them
_TEXTS = 64  # that one answer matches
_SKIPPED = 10
_SIDE = 256  # pixels of a thumbnail's longer side


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer in words, the same as data, and the pictures that it speaks of, small, in the order it names them."""

    text: str
    data: dict[str, Any]
    pictures: tuple[Image.Image, ...] = ()


class Tools:
    """Five tools. A picture is an id of the index, a path inside the service's roots, or a data: URL."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def search_pictures(self, query: str, count: int = 5) -> Shown:
        """The pictures of the library that show what the query says."""
        return self._found(self.service.search(query, k=_at_most(count)))

    def find_similar(self, picture: str, count: int = 5) -> Shown:
        """The pictures of the library that are most like another."""
        if _ID.fullmatch(picture):
            return self._found(self.service.similar(picture, k=_at_most(count)))
        return self._found(self.service.search(image=self._picture(picture), k=_at_most(count)))

    def caption_picture(self, picture: str) -> Shown:
        """What a picture shows, in a sentence, and how sure that is."""
        image = decoded(self._picture(picture))
        told = self.service.caption([image])[0]
        sure = "" if told.confidence is None else f", confidence {told.confidence:.0%}"
        data = {"caption": told.best, "confidence": told.confidence}
        return Shown(f"caption {to_json(told.best)}{sure}", data, (thumbnail(image, _SIDE),))

    def match_picture(self, picture: str, texts: Sequence[str]) -> Shown:
        """The probability of each text that it describes the picture."""
        texts = several_texts(texts)
        if len(texts) > _TEXTS:
            raise ConfigError(f"there are {len(texts):,} texts; give at most {_TEXTS} at once")
        image = decoded(self._picture(picture))
        found = self.service.match(image, texts)
        matches = [{"text": text, "probability": float(p)} for text, p in zip(texts, found, strict=True)]
        lines = [f"{each['probability']:.3f} {to_json(each['text'])}" for each in matches]
        text = "\n".join(["probability of a match, from 0 to 1:", *lines])
        return Shown(text, {"matches": matches}, (thumbnail(image, _SIDE),))

    def index_folder(self, path: str) -> Shown:
        """Bring the library up to date with a folder inside the roots."""
        added = self.service.add(path, wait=0)
        pictures = self.service.status().pictures
        lines = [f"{added.summary()} in {added.seconds:.1f} s; the library has {pictures:,}"]
        skipped = [{"path": each.path, "reason": each.reason} for each in added.skipped[:_SKIPPED]]
        lines += [f"skipped {to_json(each['path'])}: {each['reason']}" for each in skipped]
        if (rest := len(added.skipped) - _SKIPPED) > 0:
            lines.append(f"and {rest:,} more were skipped")
        return Shown("\n".join(lines), {"summary": added.summary(), "pictures": pictures, "skipped": skipped})

    def _picture(self, name: str) -> ImageLike:
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
        lines, pictures, hits = [_outcome(results)], [], []
        for rank, hit in enumerate(results, results.first_rank):
            line, found = f"{rank}. id {hit.id}, score {hit.score:.3f}, path {to_json(hit.path)}", _hit(hit, rank)
            line += f", caption {to_json(found['caption'])}" if found["caption"] else ""
            try:
                pictures.append(self.service.picture(hit.id, size=_SIDE))
            except DataError as error:
                line += f" (not shown: {to_json(str(error))})"
            lines.append(line)
            hits.append(found)
        return Shown("\n".join(lines), {"outcome": lines[0], "hits": hits}, tuple(pictures))


def jpeg(image: Image.Image) -> bytes:
    """A thumbnail's bytes."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _outcome(results: Results) -> str:
    """What was found, in a sentence, with the query and the nearest picture in quotes."""
    message, query = results.message, to_json(results.query)
    if results.nothing_found and results.searched and results.nearest is not None:
        near = to_json(results.nearest.path)
        return f"nothing found: none of {results.searched:,} shows {query}; the nearest, not near enough: path {near}"
    return f"{query}: {results.counted}" if results.hits else printable(message)


def _hit(hit: Hit, rank: int) -> dict[str, Any]:
    """A hit as data: its caption is the first of several."""
    caption = (hit.caption or "").split("\n")[0]
    return {"rank": rank, "id": hit.id, "score": round(hit.score, 3), "path": hit.path, "caption": caption or None}


def _at_most(count: int) -> int:
    if not 1 <= count <= _MOST:
        raise ConfigError(f"count is {count}; ask for 1 to {_MOST} pictures")
    return count
