"""/v1/embeddings: OpenAI's embeddings API, for texts and images."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from diptych.serving.api.error_responses import RequestRefused, invalid
from diptych.serving.api.operations import Operations
from diptych.serving.api.request_body import check_texts, read_images, read_request
from diptych.serving.api.requests import OpenAIEmbeddingsRequest
from diptych.serving.api.responses import OpenAIEmbedding, OpenAIEmbeddingsResponse, OpenAIUsage
from diptych.serving.api.routes import ERRORS, as_lists, post

_MAX_TEXTS = 2_048  # inputs that OpenAI accepts; LangChain sends 1,000 at once, LlamaIndex 100
_BYTES_PER_NUMBER = 40  # of an embedding in a response: a float, and its digits in JSON


def make_embeddings_router(operations: Operations) -> APIRouter:
    """The route; it ignores `model` in the request, since a server has one model, and names that model."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    service, settings = operations.service, operations.settings

    @post(router, "/embeddings", OpenAIEmbeddingsRequest)
    async def embeddings(request: Request) -> OpenAIEmbeddingsResponse:
        """OpenAI's embeddings: a string is a text; a data: URL or {"image": base64} is an image."""
        body = await read_request(request, OpenAIEmbeddingsRequest, settings)
        texts = [item.text for item in body.input if item.text is not None]
        named_images = [item.image for item in body.input if item.image is not None]
        _check_number(len(texts), "texts", max(_MAX_TEXTS, settings.max_rows))
        _check_number(len(named_images), "images", settings.max_rows)
        check_texts(texts, settings)
        images = await read_images(request, named_images, settings)
        of_images = iter((await operations.embed(images, ()))[0])
        of_texts = iter(await _embed_in_parts(operations, texts))
        rows = [next(of_images if item.text is None else of_texts) for item in body.input]
        request.state.memory.extend(len(rows) * rows[0].size * _BYTES_PER_NUMBER)  # of the response
        in_order = np.stack(rows)  # (inputs, dim)
        if body.dimensions not in (None, in_order.shape[1]):
            raise invalid(f"dimensions is {body.dimensions}; embeddings of this model have {in_order.shape[1]}")
        tokens = await operations.count_tokens(texts)
        encoded: Sequence[list[float] | str] = (
            _in_base64(in_order) if body.encoding_format == "base64" else as_lists(in_order)
        )
        data = [OpenAIEmbedding("embedding", index, row) for index, row in enumerate(encoded)]
        return OpenAIEmbeddingsResponse("list", service.loaded.name("encoder"), data, OpenAIUsage(tokens, tokens))

    return router


async def _embed_in_parts(operations: Operations, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """The embedding of each text; other requests run between the parts of a long list."""
    step, embeddings = operations.settings.max_rows, list[NDArray[np.float32]]()
    for start in range(0, len(texts), step):
        embeddings.extend((await operations.embed((), texts[start : start + step]))[1])
    return embeddings


def _check_number(rows: int, kind: str, limit: int) -> None:
    if rows > limit:
        message = f"input has {rows:,} {kind}, the limit is {limit:,}; send fewer at once"
        raise RequestRefused(413, "too_many_rows", message)


def _in_base64(embeddings: NDArray[np.float32]) -> Sequence[str]:
    """Each row as base64 of little-endian float32."""
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
