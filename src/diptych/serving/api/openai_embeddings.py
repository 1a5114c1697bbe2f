"""/v1/embeddings: OpenAI's embeddings API, for texts and images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from diptych.serving.api.error_responses import RequestRefused, invalid
from diptych.serving.api.operations import Operations
from diptych.serving.api.request_body import check_texts, is_image_url, read_images, read_request
from diptych.serving.api.requests import OpenAIEmbeddingsRequest, OpenAIInput
from diptych.serving.api.responses import OpenAIEmbedding, OpenAIEmbeddingsResponse, OpenAIUsage
from diptych.serving.api.routes import ERRORS, as_lists, post

Kind = Literal["text", "image"]


def make_embeddings_router(operations: Operations) -> APIRouter:
    """The route; it ignores `model` in the request, since a server has one model, and names that model."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    service, settings = operations.service, operations.settings

    @post(router, "/embeddings", OpenAIEmbeddingsRequest)
    async def embeddings(request: Request) -> OpenAIEmbeddingsResponse:
        """OpenAI's embeddings: a string is a text; a data: URL or {"image": base64} is an image."""
        body = await read_request(request, OpenAIEmbeddingsRequest, settings)
        inputs = [_kind_and_content(item) for item in (body.input if isinstance(body.input, list) else [body.input])]
        if len(inputs) > settings.max_rows:
            raise RequestRefused(
                413, "too_many_rows", f"input has {len(inputs):,} rows, the limit is {settings.max_rows:,}"
            )
        texts = [content for kind, content in inputs if kind == "text"]
        check_texts(texts, settings)
        images = await read_images(request, [content for kind, content in inputs if kind == "image"], settings)
        of_images, of_texts = await operations.embed(images, texts)
        rows = {"image": iter(of_images), "text": iter(of_texts)}
        in_order = np.stack([next(rows[kind]) for kind, _ in inputs])  # (inputs, dim)
        if body.dimensions not in (None, in_order.shape[1]):
            raise invalid(f"dimensions is {body.dimensions}; embeddings of this model have {in_order.shape[1]}")
        tokens = await operations.count_tokens(texts)
        encoded: Sequence[list[float] | str] = (
            _in_base64(in_order) if body.encoding_format == "base64" else as_lists(in_order)
        )
        data = [OpenAIEmbedding("embedding", index, row) for index, row in enumerate(encoded)]
        return OpenAIEmbeddingsResponse("list", service.loaded.name("encoder"), data, OpenAIUsage(tokens, tokens))

    return router


def _kind_and_content(item: str | OpenAIInput) -> tuple[Kind, str]:
    if isinstance(item, str):
        return ("image" if is_image_url(item) else "text"), item
    if (item.text is None) == (item.image is None):
        raise invalid('an input is a string, {"text": ...} or {"image": ...}')
    return ("image", item.image) if item.image is not None else ("text", item.text or "")


def _in_base64(embeddings: NDArray[np.float32]) -> Sequence[str]:
    """Each row as base64 of little-endian float32."""
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
