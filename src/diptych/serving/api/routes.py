"""The routes of /v1: read the request, run the operation, return the response."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from diptych.images.paths import from_text
from diptych.search.filters import Filters
from diptych.search.results import Results
from diptych.serving.api.error_responses import ErrorResponse, invalid
from diptych.serving.api.operations import Operations
from diptych.serving.api.request_body import read_images, read_request
from diptych.serving.api.requests import (
    AddRequest,
    CaptionRequest,
    EmbedRequest,
    MatchRequest,
    PromptRequest,
    RemoveRequest,
    RequestBody,
    SearchRequest,
    openapi_body,
)
from diptych.serving.api.responses import (
    AddResponse,
    CaptionResponse,
    EmbedResponse,
    MatchResponse,
    ModelEntry,
    ModelsResponse,
    PromptResponse,
    RemoveResponse,
    SearchResponse,
)
from diptych.serving.parameters import (
    FILTERS,
    CaptionParameters,
    MatchParameters,
    Paging,
    PromptParameters,
    SearchParameters,
)
from diptych.serving.results import IndexStatus
from diptych.serving.service import Service
from diptych.serving.validation_messages import ID_PATTERN

Route = Callable[[Callable[..., Any]], Callable[..., Any]]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "model": ErrorResponse}
    for status, description in {
        400: "A setting contradicts another, the body is not a form, or its length is ambiguous",
        401: "No API key, or an unknown one",
        403: "The page, host or URL is not allowed",
        408: "The body took too long to arrive",
        413: "Too many bytes, rows or characters",
        415: "Neither JSON nor a multipart form",
        422: "The request is malformed, an image cannot be read or decoded, or there is no model for it",
        423: "Something else writes to the index",
        429: "Too many requests; Retry-After says when to try again",
        431: "The URL and headers exceed 32 KB",
        500: "An internal error, logged under the request id",
        501: "The server lacks a package for this",
        503: "The server is shutting down, or has too many connections",
        507: "The server's disk is full or read-only",
    }.items()
}


def make_router(operations: Operations) -> APIRouter:
    """The routes of /v1 over the operations of a service."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    _add_model_routes(router, operations)
    _add_index_routes(router, operations)
    return router


def post(router: APIRouter, path: str, body: type[RequestBody], *, form: bool = False) -> Route:
    """A POST route that reads its body itself, since it may be JSON or a form; documented as `body` in OpenAPI."""
    return router.post(path, openapi_extra=openapi_body(body, form=form))


def _add_model_routes(router: APIRouter, operations: Operations) -> None:
    service, settings = operations.service, operations.settings

    @post(router, "/embed", EmbedRequest, form=True)
    async def embed(request: Request) -> EmbedResponse:
        """Unit embeddings of images and texts in one space."""
        body = await read_request(request, EmbedRequest, settings)
        if not body.images and not body.texts:
            raise invalid("the request is empty; send images, texts, or both")
        images = await read_images(request, body.images, settings, body.files)
        of_images, of_texts = await operations.embed(images, body.texts)
        dim = max(of_images.shape[1], of_texts.shape[1])
        unknown = await operations.unknown_texts(body.texts)
        return EmbedResponse(service.loaded.name("encoder"), dim, as_lists(of_images), as_lists(of_texts), unknown)

    @post(router, "/caption", CaptionRequest, form=True)
    async def caption(request: Request) -> CaptionResponse:
        """A caption for each image, with confidence, alternatives, and the ranked candidates."""
        body = await read_request(request, CaptionRequest, settings)
        images = await read_images(request, body.images, settings, body.files)
        fields = {**body.model_dump(exclude={"images"}), "candidates": tuple(body.candidates)}
        captions = await operations.caption(images, CaptionParameters(**fields))
        unknown = await operations.unknown_texts(body.candidates)
        return CaptionResponse(service.loaded.name("captioner"), captions, unknown)

    @post(router, "/match", MatchRequest, form=True)
    async def match(request: Request) -> MatchResponse:
        """P(match) of each image and each text."""
        body = await read_request(request, MatchRequest, settings)
        images = await read_images(request, body.images, settings, body.files)
        probabilities = await operations.match(images, MatchParameters(tuple(body.texts), body.prior))
        unknown = await operations.unknown_texts(body.texts, "matcher")
        return MatchResponse(service.loaded.name("matcher"), probabilities, unknown)

    @post(router, "/prompt", PromptRequest, form=True)
    async def prompt(request: Request) -> PromptResponse:
        """Prompts that would produce images like these."""
        body = await read_request(request, PromptRequest, settings)
        images = await read_images(request, body.images, settings, body.files)
        prompts = await operations.prompt(images, PromptParameters(body.how, body.count))
        return PromptResponse(service.loaded.name("prompter"), prompts)

    @router.get("/models")
    async def models() -> ModelsResponse:
        """The models of the service, one of each kind."""
        known = await operations.run_in_thread("ask", service.models)
        entries = [ModelEntry(m.name, "model", m.kind, m.name, m.available, m.loaded) for m in known]
        return ModelsResponse("list", entries)


def _add_index_routes(router: APIRouter, operations: Operations) -> None:
    service, settings = operations.service, operations.settings

    @post(router, "/search", SearchRequest, form=True)
    async def search(request: Request) -> SearchResponse:
        """The indexed images that match texts, images, or both."""
        body = await read_request(request, SearchRequest, settings)
        images = await read_images(request, body.images, settings, body.files)
        with operations.rows.reserve(len(images) + len(body.texts) + len(body.unwanted) + body.rerank):
            for image in images:
                await operations.check_image(image)
            results = await operations.run_in_thread("ask", service.run_search, _search_parameters(body, images))
        return _search_response(results)

    @router.get("/index")
    async def status() -> IndexStatus:
        """The index, its model, its number of images, and the folder being added."""
        return await operations.run_in_thread("ask", service.status)

    @post(router, "/index/add", AddRequest)
    async def add(request: Request) -> AddResponse:
        """Bring the index up to date with a folder inside the server's roots. Responds when that is done."""
        body = await read_request(request, AddRequest, settings)
        added = await operations.add(body.path, body.prune)
        return AddResponse(**{**added.to_dict(), "skipped": tuple(added.skipped)})

    @post(router, "/index/remove", RemoveRequest)
    async def remove(request: Request) -> RemoveResponse:
        """Remove images from the index; their files are not touched."""
        body = await read_request(request, RemoveRequest, settings)
        return RemoveResponse(await operations.run_in_thread("write", service.remove, body.ids))

    @router.get(
        "/images/{id}",
        responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
        response_class=Response,
    )
    async def image(
        image_id: Annotated[str, Path(alias="id", pattern=ID_PATTERN)],
        size: Annotated[int, Query(ge=16, le=2_048)] = 512,
    ) -> Response:
        """An indexed image as a JPEG without metadata, its longer side at most `size` pixels."""
        return Response(await operations.run_in_thread("show", _jpeg, service, image_id, size), media_type="image/jpeg")


def _search_response(results: Results) -> SearchResponse:
    return SearchResponse(
        query=results.query,
        message=results.message,
        total=results.total,
        more=results.more,
        searched=results.searched,
        page=results.page,
        cutoff=results.cutoff,
        hits=results.hits,
        nearest=results.nearest,
        unknown=results.unknown,
        before=results.before,
    )


def _search_parameters(body: SearchRequest, images: Sequence[bytes]) -> SearchParameters:
    filters = body.model_dump(include=set(FILTERS))
    if body.folder is not None:
        filters["folder"] = from_text(body.folder)  # as the paths of hits show it
    return SearchParameters(
        texts=tuple(body.texts),
        images=tuple(images),
        like=tuple(body.like),
        unwanted=tuple(body.unwanted),
        filters=Filters(**filters),
        **body.model_dump(include=set(Paging.__annotations__) - {"filters"}),
    )


def _jpeg(service: Service, image_id: str, size: int) -> bytes:
    file = io.BytesIO()
    service.image(image_id, size=size).save(file, "JPEG", quality=85)
    return file.getvalue()


def as_lists(embeddings: NDArray[np.float32]) -> list[list[float]]:
    """Unit embeddings rounded to eight decimals, the precision of float32."""
    rows: list[list[float]] = embeddings.astype(np.float64).round(8).tolist()
    return rows
