"""`Client`: a service over HTTP."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from diptych.images.paths import to_text
from diptych.images.skipped import Skipped
from diptych.images.source import ImageLike, encoded
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.search.add_report import AddReport
from diptych.search.filters import Filters
from diptych.search.lock import IndexBusy
from diptych.search.results import Hit, Results
from diptych.serving.image_service import ImageService
from diptych.serving.parameters import CaptionParameters, MatchParameters, PromptParameters, SearchParameters
from diptych.serving.results import (
    AddProgress,
    Alternative,
    CaptionedImage,
    Embeddings,
    GeneratedPrompt,
    IndexStatus,
    ModelStatus,
    RankedCandidate,
)

if TYPE_CHECKING:
    import httpx2

    JSON = dict[str, Any]

_ERRORS: dict[str, type[DiptychError]] = {
    "data_error": DataError,
    "config_error": ConfigError,
    "model_error": ModelError,
    "index_missing": IndexMissing,
    "untrusted_model": UntrustedModel,
    "missing_extra": MissingExtra,
    "index_busy": IndexBusy,
    "storage_error": StorageError,
}
_DERIVED = ("images", "images_per_second", "reasons")  # properties of `AddReport`


class ServiceError(DiptychError):
    """The server refuses a request or cannot be reached.

    `status` is the HTTP status, 0 without an answer; `type` is the error's stable word; `request_id` is in the server's
    log.
    """

    def __init__(self, message: str, *, status: int = 0, kind: str = "unreachable", request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.type, self.request_id = status, kind, request_id


class Client(ImageService):
    """A service that `diptych serve` runs elsewhere. Thread-safe; a context manager that closes its connections.

    Args:
        url: The server's address, such as `http://localhost:8000`.
        key: An API key, if the server needs one.
        timeout: Seconds to wait for the server at each step of a request; `add` waits without limit.

    Methods raise what those of `Service` raise, and `ServiceError` where only a server can fail: too many requests, a
    wrong key, no connection.

    Raises:
        MissingExtra: `httpx2` is not installed.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 120.0) -> None:
        httpx = require("httpx2", extra="api")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connection_errors = (httpx.HTTPError, httpx.InvalidURL)
        self._http: httpx2.Client = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # images and texts

    def run_embed(self, images: Sequence[ImageLike], texts: Sequence[str]) -> Embeddings:
        """`embed` of lists."""
        if not images and not texts:
            return Embeddings(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
        answer = self._post("/v1/embed", images, texts=texts)
        warn_of_unknown_words(answer.get("unknown", ()))
        rows = (answer["image_embeddings"], answer["text_embeddings"])
        return Embeddings(*(np.array(row, np.float32).reshape(-1, answer["dim"]) for row in rows))

    def run_match(self, images: Sequence[ImageLike], parameters: MatchParameters) -> list[list[float]]:
        """P(match) of each image with each text: (images, texts)."""
        answer = self._post("/v1/match", images, **asdict(parameters))
        warn_of_unknown_words(answer.get("unknown", ()))
        probabilities: list[list[float]] = answer["probabilities"]
        return probabilities

    def run_caption(self, images: Sequence[ImageLike], parameters: CaptionParameters) -> list[CaptionedImage]:
        """`caption` of a list of images."""
        answer = self._post("/v1/caption", images, **asdict(parameters))
        warn_of_unknown_words(answer.get("unknown", ()))
        return [_captioned(fields) for fields in answer["captions"]]

    def run_prompt(self, images: Sequence[ImageLike], parameters: PromptParameters) -> list[list[GeneratedPrompt]]:
        """`prompt` of a list of images."""
        answer = self._post("/v1/prompt", images, **asdict(parameters))
        return [[GeneratedPrompt(**prompt) for prompt in prompts] for prompts in answer["prompts"]]

    # the index

    def run_search(self, parameters: SearchParameters) -> Results:
        """`search` with its parameters in one object."""
        query = {"texts": parameters.texts, "like": parameters.like, "unwanted": parameters.unwanted}
        paging = {name: value for name, value in parameters.paging().items() if name != "filters"}
        filters = _filters_to_json(parameters.filters)
        return _results(self._post("/v1/search", parameters.images, **query, **paging, **filters))

    def add(self, path: str | Path, *, prune: bool = False) -> AddReport:
        """Bring the index up to date with a folder on the server; returns when that is done. See the base class."""
        answer = self._json("POST", "/v1/index/add", json={"path": to_text(path), "prune": prune}, timeout=None)
        skipped = [Skipped(**file) for file in answer.pop("skipped")]
        return AddReport(**{name: value for name, value in answer.items() if name not in _DERIVED}, skipped=skipped)

    def run_remove(self, ids: Sequence[str]) -> int:
        """`remove` of a list of ids."""
        removed: int = self._json("POST", "/v1/index/remove", json={"ids": list(ids)})["removed"]
        return removed

    def image(self, image_id: str, *, size: int = 512) -> Image.Image:
        """An indexed image, its longer side at most `size` pixels (16 to 2,048); see `Service.image`."""
        return decode(self._request("GET", f"/v1/images/{image_id}", params={"size": size}).content)

    def status(self) -> IndexStatus:
        """The server's index; see the base class."""
        answer = self._json("GET", "/v1/index")
        roots, adding = answer.pop("roots"), answer.pop("adding")
        return IndexStatus(
            **answer,
            roots=None if roots is None else tuple(roots),
            adding=AddProgress(**adding) if adding else None,
        )

    def models(self) -> list[ModelStatus]:
        """The server's models; see the base class."""
        models = self._json("GET", "/v1/models")["data"]
        return [ModelStatus(model["kind"], model["name"], model["available"], model["loaded"]) for model in models]

    # HTTP

    def _post(self, path: str, images: Iterable[ImageLike], **fields: object) -> JSON:
        in_base64 = [base64.b64encode(read_bytes(encoded(image))).decode() for image in images]
        return self._json("POST", path, json={"images": in_base64, **fields})

    def _json(self, method: str, path: str, **content: Any) -> JSON:  # of a request: `json`, `params`, `timeout`
        answer: JSON = self._request(method, path, **content).json()
        return answer

    def _request(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **content)
        except self._connection_errors as error:
            address = self._http.base_url
            raise ServiceError(
                f"no answer from {address} ({error or type(error).__name__}); is `diptych serve` running there?"
            ) from error
        if response.status_code != 200:
            raise _error(response)
        return response


def _error(response: httpx2.Response) -> DiptychError:
    """The typed error of a response; an `ImageError` keeps its reason."""
    try:
        error = response.json()["error"]
        kind, message, request_id = str(error["type"]), str(error["message"]), str(error["request_id"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"the answer has status {response.status_code} and is not from a diptych server; check the URL",
            status=response.status_code,
        )
    if kind.startswith("image_"):
        return ImageError(kind.removeprefix("image_"), message)
    if kind in _ERRORS:
        return _ERRORS[kind](message)
    return ServiceError(message, status=response.status_code, kind=kind, request_id=request_id)


def _filters_to_json(filters: Filters | None) -> JSON:
    """The filters that are set; days as ISO 8601, folders as strings."""
    fields = {name: value for name, value in asdict(filters).items() if value is not None} if filters else {}
    return {
        name: value.isoformat() if isinstance(value, datetime.date) else to_text(value) if name == "folder" else value
        for name, value in fields.items()
    }


def _captioned(fields: Mapping[str, Any]) -> CaptionedImage:
    return CaptionedImage(
        fields["best"],
        fields["confidence"],
        tuple(Alternative(**alternative) for alternative in fields["alternatives"]),
        tuple(RankedCandidate(**candidate) for candidate in fields["candidates"]),
    )


def _results(fields: JSON) -> Results:
    hits, nearest = fields.pop("hits"), fields.pop("nearest")
    del fields["message"]  # a property of `Results`
    unknown = tuple(fields.pop("unknown", ()))
    return Results(**fields, unknown=unknown, hits=tuple(map(_hit, hits)), nearest=_hit(nearest) if nearest else None)


def _hit(fields: JSON) -> Hit:
    dates = {
        name: datetime.datetime.fromisoformat(fields[name]) if fields[name] else None for name in ("taken", "changed")
    }
    return Hit(**{**fields, **dates, "copies": tuple(fields["copies"])})
