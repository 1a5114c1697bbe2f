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


def make_embeddings_router(operations: Operations) -> APIRouter:
    """The route; it ignores `model` in the request, since a server has one model, and names that model."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    service, settings = operations.service, operations.settings

    @post(router, "/embeddings", OpenAIEmbeddingsRequest)
    async def embeddings(request: Request) -> OpenAIEmbeddingsResponse:
        """OpenAI's embeddings: a string is a text; a data: URL or {"image": base64} is an image."""
        body = await read_request(request, OpenAIEmbeddingsRequest, settings)
        if len(body.input) > settings.max_rows:
            raise RequestRefused(413, "too_many_rows", _too_many(len(body.input), settings.max_rows))
        texts = [item.text for item in body.input if item.text is not None]
        check_texts(texts, settings)
        images = await read_images(request, [item.image for item in body.input if item.image is not None], settings)
        of_images, of_texts = map(iter, await operations.embed(images, texts))
        in_order = np.stack(
            [next(of_images if item.text is None else of_texts) for item in body.input]
        )  # (inputs, dim)
        if body.dimensions not in (None, in_order.shape[1]):
            raise invalid(f"dimensions is {body.dimensions}; embeddings of this model have {in_order.shape[1]}")
        tokens = await operations.count_tokens(texts)
        encoded: Sequence[list[float] | str] = (
            _in_base64(in_order) if body.encoding_format == "base64" else as_lists(in_order)
        )
        data = [OpenAIEmbedding("embedding", index, row) for index, row in enumerate(encoded)]
        return OpenAIEmbeddingsResponse("list", service.loaded.name("encoder"), data, OpenAIUsage(tokens, tokens))

    return router


def _too_many(rows: int, limit: int) -> str:
    return (
        f"input has {rows:,} rows, the limit is {limit:,}; send fewer at once (LangChain: chunk_size={limit}, "
        f"LlamaIndex: embed_batch_size={limit}), or start the server with --max-rows {rows}"
    )


def _in_base64(embeddings: NDArray[np.float32]) -> Sequence[str]:
    """Each row as base64 of little-endian float32."""
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings]
