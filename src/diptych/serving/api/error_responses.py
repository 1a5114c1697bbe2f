"""The one shape of every error: {"error": {"type", "message", "request_id"}}, with the status of the typed errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diptych.errors import DiptychError, ImageError


class RequestRefused(DiptychError):  # noqa: N818 - it names what became of the request
    """The API refuses a request before any model sees it; `type` is a stable word for programs."""

    def __init__(self, status: int, type: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.type, self.headers = status, type, dict(headers or {})


def busy(message: str, seconds: int = 1) -> RequestRefused:
    """Too much at once: 429, and when to try again."""
    return RequestRefused(429, "busy", message, {"Retry-After": str(seconds)})


def invalid(message: str) -> RequestRefused:
    """The request cannot be understood."""
    return RequestRefused(422, "invalid_request", message)


def type_of(error: DiptychError) -> str:
    """A stable word: `image_truncated` for an `ImageError`, `data_error` for a `DataError`, its own for a refusal."""
    if isinstance(error, RequestRefused):
        return error.type
    if isinstance(error, ImageError):
        return f"image_{error.reason}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()


def body(type: str, message: str, request_id: str) -> dict[str, Any]:
    return {"error": {"type": type, "message": message, "request_id": request_id}}
