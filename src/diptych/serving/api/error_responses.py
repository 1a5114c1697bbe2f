"""Error responses: one JSON shape for every error, and the errors of requests that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from diptych.errors import DiptychError, ImageError


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """What went wrong.

    Attributes:
        type: A stable word for programs.
        message: A sentence for people, with the next step.
        request_id: The id of the request, which is also in the server's log.
    """

    type: str
    message: str
    request_id: str


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The body of every error."""

    error: ErrorDetail


class RequestRefused(DiptychError):  # noqa: N818 - the name says what happened to the request
    """The API refuses a request: its HTTP status, a stable `type` for programs, and headers of the response."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.type, self.headers = status, kind, dict(headers or {})


def busy(message: str, seconds: int = 1) -> RequestRefused:
    """A 429: too much at once; the client may try again after `seconds`."""
    return RequestRefused(429, "busy", message, {"Retry-After": str(seconds)})


def invalid(message: str) -> RequestRefused:
    """A 422: the request is malformed."""
    return RequestRefused(422, "invalid_request", message)


def type_of(error: DiptychError) -> str:
    """The stable word of an error: `image_truncated` for an `ImageError`, `data_error` for a `DataError`."""
    if isinstance(error, RequestRefused):
        return error.type
    if isinstance(error, ImageError):
        return f"image_{error.reason}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def error_body(kind: str, message: str, request_id: str) -> dict[str, object]:
    """An `ErrorResponse` as JSON; `kind` is the error's `type`."""
    return asdict(ErrorResponse(ErrorDetail(kind, message, request_id)))
