"""What can be asked, as pydantic models: the same fields in JSON (pictures in base64) and in forms (files)."""

from __future__ import annotations

import datetime
import functools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from diptych.errors import ConfigError
from diptych.search.filters import parse_day
from diptych.serving.results import KEEP

_NAME = 255  # bytes of a file's name that file systems take

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Pictures = Annotated[
    list[str],
    Field(
        fail_fast=True,
        description="In JSON: base64, a data: URL or, where the server allows it, an http(s) URL. In a form: a file.",
    ),
]
Text = Annotated[str, Field(min_length=1)]


def _plain_path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path without NUL characters is needed")
    if path.startswith("~"):
        raise ValueError("home folders are not looked up; give the whole path")
    if any(len(part.encode("utf-8", "surrogatepass")) > _NAME for part in path.split("/")):
        raise ValueError(f"a name in a path has at most {_NAME} bytes")
    return path


Place = Annotated[str, Field(min_length=1, max_length=4_000), AfterValidator(_plain_path)]
Words = Annotated[str, Field(max_length=1_000)]
Texts = Annotated[list[Text], Field(fail_fast=True)]  # or a body of a million faults would be told in a million objects


def _parsed(value: object, *, end: bool) -> datetime.date:
    """A date of a request, read by the parser that every door shares."""
    if not isinstance(value, str):
        raise ValueError("a date as text is needed, such as 2021-05-17")
    try:
        return parse_day(value, end=end)
    except ConfigError as error:
        raise ValueError(str(error)) from error


Since = Annotated[datetime.date | datetime.datetime, BeforeValidator(functools.partial(_parsed, end=False))]
Until = Annotated[datetime.date | datetime.datetime, BeforeValidator(functools.partial(_parsed, end=True))]


class RequestBody(BaseModel):
    """What every request refuses: names that it does not know, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _files: dict[int, bytes] = PrivateAttr(default_factory=dict)

    @property
    def files(self) -> dict[int, bytes]:
        """The pictures that came as files of a form, by their places in `images`, where they stand empty."""
        return self._files


class EmbedAsked(RequestBody):
    """Pictures and texts to embed; at least one of either."""

    images: Pictures = []
    texts: Texts = []


class SearchAsked(RequestBody):
    """What the pictures should show and be like, and which may be found."""

    texts: Texts = []
    images: Pictures = []
    like: Annotated[list[Id], Field(fail_fast=True, description="ids of pictures of the index")] = []
    unwanted: Texts = []
    count: Annotated[int, Field(ge=1, le=200)] = 20
    page: Annotated[int, Field(ge=1, le=5_000)] = 1
    sort: Literal["score", "newest", "oldest"] = "score"
    keep: Annotated[float | None, Field(ge=0, le=1)] = KEEP
    fold: bool = True
    rerank: Annotated[int, Field(ge=0, le=200)] = 0
    folder: Place | None = None
    since: Since | None = None
    until: Until | None = None
    min_side: Annotated[int | None, Field(ge=0, le=2**31)] = None
    max_side: Annotated[int | None, Field(ge=0, le=2**31)] = None
    min_bytes: Annotated[int | None, Field(ge=0, le=2**53)] = None
    max_bytes: Annotated[int | None, Field(ge=0, le=2**53)] = None
    shape: Literal["landscape", "portrait", "square"] | None = None
    camera: Words | None = None
    caption: Words | None = None


class CaptionAsked(RequestBody):
    """Pictures to caption, and how."""

    images: Pictures
    count: Annotated[int, Field(ge=1, le=10)] = 1
    method: Literal["beam", "greedy", "nucleus"] = "beam"
    candidates: Annotated[Texts, Field(description="captions to rank beside those that are written")] = []
    choose: Annotated[bool, Field(description="order the written captions by captioner and matcher together")] = False
    prefix: Annotated[str, Field(max_length=200)] = ""
    beams: Annotated[int, Field(ge=1, le=10)] = 3
    max_tokens: Annotated[int, Field(ge=1, le=100)] = 30
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


class MatchAsked(RequestBody):
    """Pictures and texts, each with each."""

    images: Annotated[Pictures, Field(min_length=1)]
    texts: Annotated[Texts, Field(min_length=1)]
    prior: Annotated[float | None, Field(gt=0, lt=1)] = None


class PromptAsked(RequestBody):
    """Pictures to make prompts of, and how."""

    images: Pictures
    how: Literal["retrieve", "compose", "generate"] = "retrieve"
    count: Annotated[int, Field(ge=1, le=20)] = 1


class AddAsked(RequestBody):
    """A folder inside the server's roots."""

    path: Place
    prune: Annotated[bool, Field(description="also take out pictures of the folder that are gone")] = False


class RemoveAsked(RequestBody):
    """Pictures of the index, by their ids."""

    ids: Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=10_000)]


class Part(RequestBody):
    """A text or a picture among the inputs of /v1/embeddings."""

    text: Text | None = None
    image: str | None = None


class EmbeddingsAsked(RequestBody):
    """OpenAI's request. An input that is a data: URL, or {"image": base64}, is a picture."""

    input: Text | Part | Annotated[list[Text | Part], Field(fail_fast=True, min_length=1)]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1)] = None
    user: str | None = None


def request_body(model: type[RequestBody], *, form: bool) -> dict[str, Any]:
    """OpenAPI's description of a request's body, in JSON and, with `form`, as a multipart form."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if form:
        content["multipart/form-data"] = {"schema": _as_form(schema)}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with what it refers to in its place, so that it stands alone."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields; pictures are files, and what JSON can leave null is left out of a form."""
    fields = {}
    for name, field in schema["properties"].items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind.get("type") != "null"]
        field = {**{key: value for key, value in field.items() if key != "anyOf"}, **(kinds[0] if kinds else {})}
        if name == "images":
            field["items"] = {"type": "string", "format": "binary"}
        fields[name] = {key: value for key, value in field.items() if not (key == "default" and value is None)}
    return {**schema, "properties": fields}
