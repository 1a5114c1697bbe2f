"""Reading request bodies: JSON or multipart forms, and images from base64, files and URLs."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar, get_origin

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from diptych.serving.api.error_responses import RequestRefused, invalid
from diptych.serving.api.requests import RequestBody
from diptych.serving.api.settings import Settings
from diptych.serving.api.url_fetch import fetch
from diptych.serving.validation_messages import describe

Body = TypeVar("Body", bound=RequestBody)
_MAX_FIELDS = 1_000  # of a form, files excluded
_FETCH_SECONDS = 10.0
_MAX_VALUES = 20_000  # of a JSON body: twice the ids that may be removed at once


async def read_request(request: Request, model: type[Body], settings: Settings) -> Body:
    """The validated body of a request.

    Raises:
        RequestRefused: 415, the body is neither JSON nor a form; 422, it does not fit `model`; 413, it has too many
            rows or characters.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (encoding := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise RequestRefused(
            415, "unsupported_type", f"Content-Encoding '{encoding[:100]}' is not supported; send the body uncompressed"
        )
    try:
        if media_type == "application/json":
            body = await asyncio.to_thread(_parse_json, model, await _read_all(request), settings)
        elif media_type == "multipart/form-data":
            fields, files = await _read_form(request, model, settings)
            body = model.model_validate(fields)
            body.files.update(files)
        else:
            raise RequestRefused(
                415,
                "unsupported_type",
                f"'{media_type[:100]}' is not supported; send application/json or multipart/form-data",
            )
    except ValidationError as error:
        raise invalid(describe(error, model)) from None
    _check_rows(body, settings)
    return body


async def _read_all(request: Request) -> bytes:
    """The whole body; unlike `request.body()`, the request keeps no copy of it."""
    return b"".join([chunk async for chunk in request.stream()])


def _parse_json(model: type[Body], content: bytes, settings: Settings) -> Body:
    _check_values(content, settings)
    return model.model_validate_json(content)


def _check_values(content: bytes, settings: Settings) -> None:
    """Refuse JSON with very many values before each becomes an object: there is a comma between any two."""
    limit = _MAX_VALUES + 3 * settings.max_rows * settings.max_text  # texts contain commas too
    if content.count(b",") > limit:
        raise RequestRefused(413, "too_many_rows", f"the JSON has more than {limit:,} values; send fewer at once")


async def _read_form(
    request: Request, model: type[RequestBody], settings: Settings
) -> tuple[dict[str, str | list[str]], dict[int, bytes]]:
    """The fields of a form, as lists where the model has lists, and its files; file names are ignored."""
    fields: dict[str, str] = {}
    rows = {name: list[str]() for name, field in model.model_fields.items() if get_origin(field.annotation) is list}
    files: dict[int, bytes] = {}
    async with request.form(max_files=settings.max_rows, max_fields=_MAX_FIELDS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "images" or name not in rows:
                    raise invalid(f"{name}: files are accepted as images only")
                files[len(rows[name])] = await value.read()
            content = "" if isinstance(value, UploadFile) else value
            if name in rows:
                rows[name].append(content)
            elif name in fields:
                raise invalid(f"{name}: the field is repeated; send it once")
            else:
                fields[name] = content
    return {**fields, **{name: listed for name, listed in rows.items() if listed}}, files


def _check_rows(body: RequestBody, settings: Settings) -> None:
    for name in ("images", "texts", "candidates", "like", "unwanted"):
        if len(rows := getattr(body, name, ())) > settings.max_rows:
            message = f"{name} has {len(rows):,} rows, the limit is {settings.max_rows:,}; send fewer at once"
            raise RequestRefused(413, "too_many_rows", message)
    for name in ("texts", "candidates", "unwanted"):
        check_texts(getattr(body, name, ()), settings)


def check_texts(texts: Sequence[str], settings: Settings) -> None:
    """Check that no text is blank or longer than the settings allow.

    Raises:
        RequestRefused: 422, a text is blank; 413, a text is too long.
    """
    for index, text in enumerate(texts):
        if not text.strip():
            raise invalid(f"text {index} is empty; describe the image in words")
        if len(text) > settings.max_text:
            message = f"text {index} has {len(text):,} characters, the limit is {settings.max_text:,}; send less"
            raise RequestRefused(413, "too_large", message)


async def read_images(
    request: Request, images: Sequence[str], settings: Settings, files: Mapping[int, bytes] = MappingProxyType({})
) -> list[bytes]:
    """The encoded bytes of images: from `files` by position, base64, a data: URL, or an http(s) URL if allowed.

    All fetched images together may have as many bytes and take as many seconds as a body, and count towards the memory
    limit as a body does.

    Raises:
        RequestRefused: 422, an image is none of these; 403, URLs are not allowed; 429, there is no memory for one.
    """
    contents: list[bytes] = []
    bytes_left, clock = settings.max_bytes, asyncio.get_running_loop().time
    deadline = clock() + settings.body_seconds
    for index, image in enumerate(images):
        if index not in files and image[:8].lower().startswith(("http://", "https://")):
            if not settings.urls:
                raise RequestRefused(
                    403,
                    "urls_off",
                    "this server fetches no URLs; send the image itself, or start `diptych serve --urls`",
                )
            content = await fetch(
                image,
                max_bytes=bytes_left,
                seconds=min(_FETCH_SECONDS, max(0.0, deadline - clock())),
                ports=settings.url_ports,
                on_bytes=request.state.memory.extend,
            )
            bytes_left -= len(content)
        elif index in files:
            content = files[index]
        else:
            content = await asyncio.to_thread(_decode_base64, image)
        contents.append(content)
    return contents


def _decode_base64(text: str) -> bytes:
    """The content of base64 or a data: URL; line breaks are allowed, as the `base64` program writes them."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise invalid("a data: URL of an image must be in base64: data:image/jpeg;base64,...")
    try:
        if "\n" in text or "\r" in text:
            return binascii.a2b_base64(text.encode("ascii").translate(None, b"\r\n"), strict_mode=True)
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"an image is not valid base64 ({error}); send base64, or the file in a form") from None
