"""The routes of /v1: read what is asked, have the operations do it, tell it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from diptych.search.filters import Filters
from diptych.serving.api import responses as told
from diptych.serving.api.error_responses import invalid
from diptych.serving.api.operations import Operations
from diptych.serving.api.request_body import pictures, read
from diptych.serving.api.requests import (
    AddAsked,
    CaptionAsked,
    EmbedAsked,
    MatchAsked,
    PromptAsked,
    RemoveAsked,
    RequestBody,
    SearchAsked,
    request_body,
)

_FILTERS = ("folder", "since", "until", "min_side", "max_side", "min_bytes", "max_bytes", "shape", "camera", "caption")

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A setting contradicts another, the body is no form, or its length is not clear"},
    401: {"description": "No API key, or none that the server knows"},
    403: {"description": "From a page or for a host that may not ask, or a URL that is not fetched"},
    408: {"description": "The body took too long to arrive"},
    413: {"description": "Too many bytes, rows or characters"},
    415: {"description": "Neither JSON nor a multipart form"},
    422: {"description": "What was sent cannot be understood, read or decoded, or no model here can do it"},
    423: {"description": "Something else writes to the index"},
    431: {"description": "An address and headers of more than 32 KB"},
    429: {"description": "Too much at once; Retry-After says when to try again"},
    500: {"description": "A fault of the server, logged under the request id"},
    501: {"description": "The server lacks a package for this"},
    503: {"description": "The server ends, or has as many connections as it may"},
    507: {"description": "The server's disk is full, or refuses to write"},
}
for _refusal in REFUSALS.values():
    _refusal["model"] = told.ErrorTold


def routes(operations: Operations) -> APIRouter:
    """The routes of /v1 over a service."""
    router = APIRouter(prefix="/v1", responses=REFUSALS)
    _add_model_routes(router, operations)
    _add_index_routes(router, operations)
    return router


def post(
    router: APIRouter, path: str, asked: type[RequestBody], answer: type[BaseModel], *, form: bool = False
) -> Callable:
    """A POST route whose body is read by hand, since it may be JSON or a form, and described to OpenAPI here."""
    extra = request_body(asked, form=form)
    return router.post(path, openapi_extra=extra, responses={200: {"model": answer}}, response_class=JSONResponse)


def _add_model_routes(router: APIRouter, operations: Operations) -> None:
    service, settings = operations.service, operations.settings

    @post(router, "/embed", EmbedAsked, told.EmbedTold, form=True)
    async def embed(request: Request) -> Response:
        """Pictures and texts as unit vectors of one space."""
        asked = await read(request, EmbedAsked, settings)
        if not asked.images and not asked.texts:
            raise invalid("nothing is given; send images, texts, or both")
        images, texts = await operations.embed(
            await pictures(request, asked.images, settings, asked.files), asked.texts
        )
        dim = max(images.shape[1], texts.shape[1])
        model = service.loaded.name("encoder")
        vectors = {"image_vectors": as_lists(images), "text_vectors": as_lists(texts)}
        return JSONResponse({"model": model, "dim": dim, **vectors})

    @post(router, "/caption", CaptionAsked, told.CaptionTold, form=True)
    async def caption(request: Request) -> Response:
        """A caption for each picture, with confidence, alternatives, and given candidates in their order."""
        asked = await read(request, CaptionAsked, settings)
        own = asked.model_dump(exclude={"images", "candidates"})
        own["candidates"] = tuple(asked.candidates)
        found = await operations.caption(await pictures(request, asked.images, settings, asked.files), own)
        return JSONResponse(
            {"model": service.loaded.name("captioner"), "captions": [captioned.as_dict() for captioned in found]}
        )

    @post(router, "/match", MatchAsked, told.MatchTold, form=True)
    async def match(request: Request) -> Response:
        """The probability that each picture and each text belong together."""
        asked = await read(request, MatchAsked, settings)
        found = await operations.match(
            await pictures(request, asked.images, settings, asked.files), asked.texts, asked.prior
        )
        return JSONResponse({"model": service.loaded.name("matcher"), "probabilities": found})

    @post(router, "/prompt", PromptAsked, told.PromptTold, form=True)
    async def prompt(request: Request) -> Response:
        """Prompts that would make pictures like these."""
        asked = await read(request, PromptAsked, settings)
        own = {"how": asked.how, "count": asked.count}
        found = await operations.prompt(await pictures(request, asked.images, settings, asked.files), own)
        prompts = [[asdict(each) for each in said] for said in found]
        return JSONResponse({"model": service.loaded.name("prompter"), "prompts": prompts})

    @router.get("/models", responses={200: {"model": told.ModelsTold}}, response_class=JSONResponse)
    async def models() -> Response:
        """The models of the service, one of each kind."""
        known = await operations.aside("ask", service.models)
        data = [{"id": model["name"], "object": "model", **model} for model in known]
        return JSONResponse({"object": "list", "data": data})


def _add_index_routes(router: APIRouter, operations: Operations) -> None:
    service, settings = operations.service, operations.settings

    @post(router, "/search", SearchAsked, told.SearchTold, form=True)
    async def search(request: Request) -> Response:
        """The pictures of the index that match texts, pictures, or both."""
        asked = await read(request, SearchAsked, settings)
        images = await pictures(request, asked.images, settings, asked.files)
        own = asked.model_dump(include={"like", "unwanted", "count", "page", "sort", "keep", "fold", "rerank"})
        filters = Filters(**{name: getattr(asked, name) for name in _FILTERS})
        look = partial(service.search, asked.texts, image=images, filters=filters, **own)
        with operations.rows.take(len(images) + len(asked.texts) + len(asked.unwanted) + asked.rerank):
            for image in images:
                await operations.check(image)
            results = await operations.aside("ask", look)
        return JSONResponse({**results.to_dict(), "before": results.before})

    @router.get("/index", responses={200: {"model": told.StatusTold}}, response_class=JSONResponse)
    async def status() -> Response:
        """The index, its model, how many pictures it has, and what is being added."""
        return JSONResponse(await operations.aside("ask", service.status))

    @post(router, "/index/add", AddAsked, told.AddedTold)
    async def add(request: Request) -> Response:
        """Bring the index up to date with a folder inside the server's roots. Answers when it is done."""
        asked = await read(request, AddAsked, settings)
        return JSONResponse((await operations.add(asked.path, asked.prune)).to_dict())

    @post(router, "/index/remove", RemoveAsked, told.RemovedTold)
    async def remove(request: Request) -> Response:
        """Take pictures out of the index; their files are not touched."""
        asked = await read(request, RemoveAsked, settings)
        return JSONResponse({"removed": await operations.aside("write", service.remove, asked.ids)})

    @router.get(
        "/pictures/{id}",
        responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
        response_class=Response,
    )
    async def picture(
        id: str = Path(pattern="^[0-9a-f]{32}$"), size: int = Query(default=512, ge=16, le=2_048)
    ) -> Response:
        """A picture of the index as a JPEG, its longer side at most `size` pixels, without its metadata."""
        return Response(await operations.aside("show", _jpeg, service, id, size), media_type="image/jpeg")


def _jpeg(service: Any, id: str, size: int) -> bytes:
    file = io.BytesIO()
    service.picture(id, size=size).save(file, "JPEG", quality=85)
    return file.getvalue()


def as_lists(vectors: np.ndarray) -> list[list[float]]:
    """Unit vectors in eight decimals, which is what float32 holds of them."""
    return vectors.astype(np.float64).round(8).tolist()
