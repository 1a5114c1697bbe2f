"""Reading a request: JSON or a multipart form into one model, and pictures out of base64, files and URLs."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from diptych.serving.api.error_responses import RequestRefused, invalid
from diptych.serving.api.requests import RequestBody
from diptych.serving.api.settings import Settings
from diptych.serving.api.url_fetch import fetch

Form = TypeVar("Form", bound=RequestBody)
_SCALAR_LIMIT = 1_000  # fields of a form that are no files
_FETCH_SECONDS = 10.0
_VALUES = 20_000  # twice as many ids as may be removed at once
_SHOWN = 200  # characters of a fault's place, which is a name that the client chose
_FAULTS = 1_000  # of a request, each an object in memory once they are told


async def read(request: Request, model: type[Form], settings: Settings) -> Form:
    """What is asked.

    Raises:
        Refused: 415 for what is neither JSON nor a form, 422 for what does not fit `model`, 413 for too many rows.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise RequestRefused(415, "unsupported_type", f"a body in '{coding[:100]}' is not read; send it as it is")
    try:
        if kind == "application/json":
            asked = await asyncio.to_thread(_parsed, model, await _body(request), settings)
        elif kind == "multipart/form-data":
            fields, files = await _form(request, model, settings)
            asked = model.model_validate(fields)
            asked.files.update(files)
        else:
            raise RequestRefused(
                415, "unsupported_type", f"'{kind[:100]}' is not read; send application/json or multipart/form-data"
            )
    except ValidationError as error:
        raise invalid(_in_words(error)) from None
    _check_rows(asked, settings)
    return asked


async def _body(request: Request) -> bytes:
    """The whole body; the request keeps no copy, so that it is freed once it is parsed."""
    return b"".join([chunk async for chunk in request.stream()])


def _parsed(model: type[Form], body: bytes, settings: Settings) -> Form:
    _check_values(body, settings)
    return model.model_validate_json(body)


def _check_values(body: bytes, settings: Settings) -> None:
    """Refuse JSON of a great many values before each is an object in memory: none comes without a comma."""
    most = _VALUES + 3 * settings.max_rows * settings.max_text  # texts have commas of their own
    if body.count(b",") > most:
        raise RequestRefused(413, "too_many_rows", f"the JSON has more than {most:,} values; send fewer at once")


async def _form(
    request: Request, model: type[RequestBody], settings: Settings
) -> tuple[dict[str, Any], dict[int, bytes]]:
    """The fields of a form, lists where the model has lists, and its files; what these are called counts nothing."""
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) is list}
    found: dict[str, Any] = {}
    files: dict[int, bytes] = {}
    async with request.form(max_files=settings.max_rows, max_fields=_SCALAR_LIMIT) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "images":
                    raise invalid(f"{name}: a file is not read here; pictures go into images")
                files[len(found.get(name, ()))] = await value.read()
            content = "" if isinstance(value, UploadFile) else value
            if name in lists:
                found.setdefault(name, []).append(content)
            elif name in found:
                raise invalid(f"{name}: it is given more than once")
            else:
                found[name] = content
    return found, files


def _in_words(error: ValidationError) -> str:
    """The first three faults of a request, each with its place; of a great many, how many there are."""
    if error.error_count() > _FAULTS:
        return f"there are {error.error_count():,} faults in the request; /openapi.json describes what can be asked"
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    places = [".".join(map(str, each["loc"]))[:_SHOWN] for each in faults[:3]]
    told = [": ".join(filter(None, (place, each["msg"]))) for place, each in zip(places, faults, strict=False)]
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(told) + more


def _check_rows(asked: RequestBody, settings: Settings) -> None:
    for name in ("images", "texts", "candidates", "like", "unwanted"):
        if len(rows := getattr(asked, name, ())) > settings.max_rows:
            message = f"{name} has {len(rows):,} rows, the limit is {settings.max_rows:,}; send fewer at once"
            raise RequestRefused(413, "too_many_rows", message)
    for name in ("texts", "candidates", "unwanted"):
        check_texts(getattr(asked, name, ()), settings)


def check_texts(texts: Sequence[str], settings: Settings) -> None:
    """Refuse texts without a word, and longer ones than the settings allow."""
    for at, text in enumerate(texts):
        if not text.strip():
            raise invalid(f"text {at} is empty; say in words what the picture shows")
        if len(text) > settings.max_text:
            message = f"text {at} has {len(text):,} characters, the limit is {settings.max_text:,}; send less"
            raise RequestRefused(413, "too_large", message)


async def pictures(
    request: Request, given: Sequence[str], settings: Settings, files: Mapping[int, bytes] = MappingProxyType({})
) -> list[bytes]:
    """The encoded bytes of pictures: `files` by place, else base64, a data: URL, or a URL if the settings allow it.

    What is fetched has as many bytes and seconds as a body may have, all together, and takes room as a body does.

    Raises:
        Refused: one is none of these, or there is no room.
    """
    found: list[bytes] = []
    left, clock = settings.max_bytes, asyncio.get_running_loop().time
    deadline = clock() + settings.body_seconds
    for at, each in enumerate(given):
        if at not in files and each[:8].lower().startswith(("http://", "https://")):
            if not settings.urls:
                raise RequestRefused(
                    403, "urls_off", "pictures are not fetched from URLs here (--urls); send the picture"
                )
            seconds = min(_FETCH_SECONDS, max(0.0, deadline - clock()))
            limits: dict[str, Any] = {"max_bytes": left, "seconds": seconds, "ports": settings.url_ports}
            found.append(await fetch(each, **limits, take=request.state.memory.more))
            left -= len(found[-1])
        elif at in files:
            found.append(files[at])
        else:
            found.append(await asyncio.to_thread(_picture, each))
    return found


def _picture(text: str) -> bytes:
    """What a data: URL or base64 holds; lines may be broken, as `base64` breaks them."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise invalid("a data: URL of a picture must be in base64: data:image/jpeg;base64,...")
    try:
        if "\n" in text or "\r" in text:
            return binascii.a2b_base64(text.encode("ascii").translate(None, b"\r\n"), strict_mode=True)
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"a picture is not in base64 ({error}); send base64, or the file in a form") from None


def is_image_file(text: str) -> bool:
    """Whether an input of /v1/embeddings is a picture: a data: URL."""
    return text[:11].lower() == "data:image/"
