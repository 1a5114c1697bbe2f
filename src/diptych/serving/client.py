"""The service over HTTP: the same methods as `Service`, so that a program moves from one to the other by one line."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from diptych.errors import (
    ConfigError,
    DataError,
    DiptychError,
    ImageError,
    IndexMissing,
    MissingExtra,
    ModelError,
    StorageError,
    UntrustedModel,
    require,
)
from diptych.images.decode import decode, read_bytes
from diptych.images.skipped import Skipped
from diptych.images.source import ImageLike, encoded, several
from diptych.models.modalities import several_texts
from diptych.search.add_report import Added
from diptych.search.filters import Filters
from diptych.search.lock import IndexBusy
from diptych.search.results import Hit, Results
from diptych.serving.results import KEEP, Alternative, Captioned, Embedded, GeneratedPrompt, Ranked

_ERRORS: dict[str, type[DiptychError]] = {
    **{"data_error": DataError, "config_error": ConfigError, "model_error": ModelError},
    **{"index_missing": IndexMissing, "untrusted_model": UntrustedModel},
    **{"missing_extra": MissingExtra, "index_busy": IndexBusy, "storage_error": StorageError},
}
_TOLD = ("pictures", "pictures_per_second", "reasons")  # what a report derives itself


class ServiceError(DiptychError):
    """The server refuses, or cannot be reached (status 0); `type` is its stable word, `request_id` is in its log."""

    def __init__(self, message: str, *, status: int = 0, type: str = "unreachable", request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.type, self.request_id = status, type, request_id


class Client:
    """A service elsewhere: `diptych serve` at `url`, with its API `key` if it wants one. Threads may share it.

    Raises what `Service` raises, and `ServiceError` for what only a server can say: too busy, no such key, not there.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 120.0) -> None:
        httpx = require("httpx2", extra="api")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._broken = (httpx.HTTPError, httpx.InvalidURL)
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # pictures and texts

    def embed(self, images: ImageLike | Iterable[ImageLike] = (), texts: str | Sequence[str] = ()) -> Embedded:
        """Pictures and texts as unit vectors of one space; see `Service.embed`."""
        pictures, texts = several(images), several_texts(texts)
        if not pictures and not texts:
            return Embedded(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
        told = self._send("/v1/embed", pictures, texts=texts)
        vectors = (told["image_vectors"], told["text_vectors"])
        return Embedded(*(np.array(each, np.float32).reshape(-1, told["dim"]) for each in vectors))

    def match(self, image: ImageLike, texts: Sequence[str], *, prior: float | None = None) -> list[float]:
        """The probability of each text that it belongs to the picture; see `Service.match`."""
        texts = several_texts(texts)
        return self._send("/v1/match", [image], texts=texts, prior=prior)["probabilities"][0]

    def caption(
        self,
        images: Iterable[ImageLike],
        *,
        count: int = 1,
        method: str = "beam",
        candidates: Sequence[str] = (),
        choose: bool = False,
        **settings: Any,
    ) -> list[Captioned]:
        """A caption for each picture; see `Service.caption`."""
        own = {"count": count, "method": method, "candidates": several_texts(candidates), "choose": choose, **settings}
        return [_captioned(each) for each in self._send("/v1/caption", images, **own)["captions"]]

    def prompt(
        self,
        images: Iterable[ImageLike],
        *,
        how: Literal["retrieve", "compose", "generate"] = "retrieve",
        count: int = 1,
    ) -> list[list[GeneratedPrompt]]:
        """Prompts for each picture; see `Service.prompt`."""
        told = self._send("/v1/prompt", images, how=how, count=count)["prompts"]
        return [[GeneratedPrompt(**each) for each in prompts] for prompts in told]

    # the index

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: ImageLike | Sequence[ImageLike] | None = None,
        like: str | Sequence[str] | None = None,
        unwanted: str | Sequence[str] | None = None,
        filters: Filters | None = None,
        count: int = 20,
        page: int = 1,
        sort: Literal["score", "newest", "oldest"] = "score",
        keep: float | None = KEEP,
        fold: bool = True,
        rerank: int = 0,
    ) -> Results:
        """The pictures of the server's index that match texts, pictures, or both; see `Service.search`."""
        asked = {"texts": several_texts(text or ()), "like": _list(like), "unwanted": several_texts(unwanted or ())}
        own = {"count": count, "page": page, "sort": sort, "keep": keep, "fold": fold, "rerank": rerank}
        return _results(self._send("/v1/search", several(image), **asked, **own, **_as_json(filters)))

    def similar(self, id: str, *, count: int = 20, page: int = 1, filters: Filters | None = None) -> Results:
        """The pictures that are nearest to one of the index; see `Service.similar`."""
        return self.search(like=id, count=count, page=page, filters=filters)

    def add(self, path: str | Path, *, prune: bool = False) -> Added:
        """Bring the index up to date with a folder on the server; see `Service.add`. Waits as long as it takes."""
        told = self._ask("POST", "/v1/index/add", json={"path": str(path), "prune": prune}, timeout=None)
        skipped = [Skipped(**each) for each in told.pop("skipped")]
        return Added(**{name: value for name, value in told.items() if name not in _TOLD}, skipped=skipped)

    def remove(self, ids: Sequence[str]) -> int:
        """Take pictures out of the index, by their ids; see `Service.remove`."""
        return self._ask("POST", "/v1/index/remove", json={"ids": list(ids)})["removed"]

    def picture(self, id: str, *, size: int = 512) -> Image.Image:
        """A picture of the index, its longer side at most `size` pixels; see `Service.picture`."""
        answer = self._answer("GET", f"/v1/pictures/{id}", params={"size": size})
        return decode(answer.content)

    def status(self) -> dict[str, Any]:
        """The server's index; see `Service.status`."""
        return self._ask("GET", "/v1/index")

    def models(self) -> list[dict[str, Any]]:
        """The server's models; see `Service.models`."""
        told = self._ask("GET", "/v1/models")["data"]
        return [{name: each[name] for name in ("kind", "name", "available", "loaded")} for each in told]

    # HTTP

    def _send(self, path: str, pictures: Iterable[ImageLike], **asked: Any) -> Any:
        images = [base64.b64encode(_bytes(picture)).decode() for picture in pictures]
        return self._ask("POST", path, json={"images": images, **asked})

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        return self._answer(method, path, **content).json()

    def _answer(self, method: str, path: str, **content: Any) -> Any:
        try:
            answer = self._http.request(method, path, **content)
        except self._broken as error:
            where = self._http.base_url
            raise ServiceError(
                f"no answer from {where} ({error or type(error).__name__}); is it served there?"
            ) from error
        if answer.status_code != 200:
            raise _error(answer)
        return answer


def _bytes(picture: ImageLike) -> bytes:
    """The encoded bytes of a picture; files and slices are read, and refused, as they are here."""
    return read_bytes(encoded(picture))


def _error(answer: Any) -> DiptychError:
    """The typed error that the server told; an `ImageError` keeps its reason."""
    try:
        told = answer.json()["error"]
        type, message, request_id = told["type"], told["message"], told["request_id"]
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"the server answers {answer.status_code}, and not as diptych does", status=answer.status_code
        )
    if type.startswith("image_"):
        return ImageError(type.removeprefix("image_"), message)
    if type in _ERRORS:
        return _ERRORS[type](message)
    return ServiceError(message, status=answer.status_code, type=type, request_id=request_id)


def _list(texts: str | Sequence[str] | None) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or ())


def _as_json(filters: Filters | None) -> dict[str, Any]:
    """What the filters ask for; days as ISO 8601, folders as text."""
    given = {name: value for name, value in asdict(filters).items() if value is not None} if filters else {}
    return {
        name: value.isoformat() if isinstance(value, datetime.date) else str(value) if name == "folder" else value
        for name, value in given.items()
    }


def _captioned(told: dict[str, Any]) -> Captioned:
    alternatives = tuple(Alternative(**each) for each in told["alternatives"])
    return Captioned(
        told["best"], told["confidence"], alternatives, tuple(Ranked(**each) for each in told["candidates"])
    )


def _results(told: dict[str, Any]) -> Results:
    told = {name: value for name, value in told.items() if name != "message"}
    nearest = told.pop("nearest")
    hits = tuple(map(_hit, told.pop("hits")))
    return Results(**told, hits=hits, nearest=_hit(nearest) if nearest else None)


def _hit(told: dict[str, Any]) -> Hit:
    days = {name: datetime.datetime.fromisoformat(told[name]) if told[name] else None for name in ("taken", "changed")}
    return Hit(**{**told, **days, "copies": tuple(told["copies"])})
