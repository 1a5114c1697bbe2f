"""/v1/embeddings as OpenAI's clients ask for it, for texts and pictures."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from diptych.serving.api import responses as told
from diptych.serving.api.error_responses import RequestRefused, invalid
from diptych.serving.api.operations import Operations
from diptych.serving.api.request_body import check_texts, is_image_file, pictures, read
from diptych.serving.api.requests import EmbeddingsAsked, Part
from diptych.serving.api.routes import REFUSALS, post


def embeddings_route(operations: Operations) -> APIRouter:
    """The one route; `model` may be anything, since a server has one model, and the answer names it."""
    router = APIRouter(prefix="/v1", responses=REFUSALS)
    service, settings = operations.service, operations.settings

    @post(router, "/embeddings", EmbeddingsAsked, told.EmbeddingsTold)
    async def embeddings(request: Request) -> Response:
        """OpenAI's embeddings: a string is a text, a data: URL or {"image": base64} is a picture."""
        asked = await read(request, EmbeddingsAsked, settings)
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        if len(inputs) > settings.max_rows:
            raise RequestRefused(
                413, "too_many_rows", f"input has {len(inputs):,} rows, the limit is {settings.max_rows:,}"
            )
        kinds = [_kind(each) for each in inputs]
        check_texts([text for kind, text in kinds if kind == "text"], settings)
        images = await pictures(request, [image for kind, image in kinds if kind == "image"], settings)
        vectors = await _vectors(operations, kinds, images)
        if asked.dimensions not in (None, len(vectors[0])):
            raise invalid(f"dimensions is {asked.dimensions}; this model's vectors have {len(vectors[0])}")
        tokens = await operations.count_tokens([text for kind, text in kinds if kind == "text"])
        data = [
            {"object": "embedding", "index": at, "embedding": _as(vector, asked.encoding_format)}
            for at, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        name = service.loaded.name("encoder")
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": usage})

    return router


def _kind(given: str | Part) -> tuple[str, str]:
    if isinstance(given, str):
        return ("image" if is_image_file(given) else "text"), given
    if (given.text is None) == (given.image is None):
        raise invalid('an input is a string, {"text": ...} or {"image": ...}')
    return ("image", given.image) if given.image is not None else ("text", given.text or "")


async def _vectors(operations: Operations, kinds: list[tuple[str, str]], images: list[bytes]) -> list[np.ndarray]:
    """A vector for each input, in their order."""
    of_images, of_texts = await operations.embed(images, [text for kind, text in kinds if kind == "text"])
    rest: dict[str, Any] = {"image": iter(of_images), "text": iter(of_texts)}
    return [next(rest[kind]) for kind, _ in kinds]


def _as(vector: np.ndarray, format: str) -> list[float] | str:
    if format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.astype(np.float64).round(8).tolist()
