"""Request bodies of the API: the same fields in JSON (images in base64) and in multipart forms (images as files)."""

from __future__ import annotations

import datetime
import functools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from diptych.errors import ConfigError
from diptych.search.filters import parse_day
from diptych.serving.parameters import KEEP, Method, PromptMethod
from diptych.serving.validation_messages import ID_PATTERN

_MAX_NAME = 255  # bytes of a file name that file systems accept

Id = Annotated[str, Field(pattern=ID_PATTERN)]
Images = Annotated[
    list[str],
    Field(
        fail_fast=True,
        description="In JSON: base64, a data: URL or, where the server allows it, an http(s) URL. In a form: a file.",
    ),
]
Text = Annotated[str, Field(min_length=1)]


def _plain_path(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path cannot contain NUL characters")
    if path.startswith("~"):
        raise ValueError("home folders are not expanded; give the full path")
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_NAME for part in path.split("/")):
        raise ValueError(f"a name in a path has at most {_MAX_NAME} bytes")
    return path


PathText = Annotated[str, Field(min_length=1, max_length=4_000), AfterValidator(_plain_path)]
Keywords = Annotated[str, Field(max_length=1_000)]
Texts = Annotated[list[Text], Field(fail_fast=True)]  # a body with a million errors would become a million objects


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
    """Base of all request bodies: unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _files: dict[int, bytes] = PrivateAttr(default_factory=dict)

    @property
    def files(self) -> dict[int, bytes]:
        """Images sent as files of a form, by their position in `images`, which has an empty string there."""
        return self._files


class EmbedRequest(RequestBody):
    """Images and texts to embed; at least one of either."""

    images: Images = []
    texts: Texts = []


class SearchRequest(RequestBody):
    """A query of texts, images and indexed images, with filters, paging and sorting."""

    texts: Texts = []
    images: Images = []
    like: Annotated[list[Id], Field(fail_fast=True, description="ids of indexed images")] = []
    unwanted: Texts = []
    k: Annotated[int, Field(ge=1, le=200, description="results per page")] = 20
    page: Annotated[int, Field(ge=1, le=5_000)] = 1
    sort: Literal["score", "newest", "oldest"] = "score"
    keep: Annotated[float | None, Field(ge=0, le=1)] = KEEP
    fold: bool = True
    rerank: Annotated[int, Field(ge=0, le=200)] = 0
    folder: PathText | None = None
    since: Since | None = None
    until: Until | None = None
    min_side: Annotated[int | None, Field(ge=0, le=2**31)] = None
    max_side: Annotated[int | None, Field(ge=0, le=2**31)] = None
    min_bytes: Annotated[int | None, Field(ge=0, le=2**53)] = None
    max_bytes: Annotated[int | None, Field(ge=0, le=2**53)] = None
    shape: Literal["landscape", "portrait", "square"] | None = None
    camera: Keywords | None = None
    caption: Keywords | None = None


class CaptionRequest(RequestBody):
    """Images to caption, and generation settings."""

    images: Images
    count: Annotated[int, Field(ge=1, le=10)] = 1
    method: Method = "beam"
    candidates: Annotated[Texts, Field(description="captions to rank beside the generated ones")] = []
    choose: Annotated[bool, Field(description="order the generated captions by captioner and matcher together")] = False
    prefix: Annotated[str, Field(max_length=200)] = ""
    beams: Annotated[int, Field(ge=1, le=10)] = 3
    max_tokens: Annotated[int, Field(ge=1, le=100)] = 30
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


class MatchRequest(RequestBody):
    """Images and texts to match, each image with each text."""

    images: Annotated[Images, Field(min_length=1)]
    texts: Annotated[Texts, Field(min_length=1)]
    prior: Annotated[float | None, Field(gt=0, lt=1)] = None


class PromptRequest(RequestBody):
    """Images to make prompts for, and the method."""

    images: Images
    how: PromptMethod = "retrieve"
    count: Annotated[int, Field(ge=1, le=20)] = 1


class AddRequest(RequestBody):
    """A folder inside the server's roots to add to the index."""

    path: PathText
    prune: Annotated[bool, Field(description="also remove images of the folder whose files are gone")] = False


class RemoveRequest(RequestBody):
    """Ids of indexed images to remove."""

    ids: Annotated[list[Id], Field(fail_fast=True, min_length=1, max_length=10_000)]


class OpenAIInput(RequestBody):
    """A text or an image among the inputs of /v1/embeddings; exactly one of the two."""

    text: str | None = None
    image: str | None = None

    @model_validator(mode="after")
    def _check_one(self) -> OpenAIInput:
        if (self.text is None) == (self.image is None):
            raise ValueError('an input is a string, {"text": ...} or {"image": ...}')
        return self


def _as_inputs(value: object) -> list[object]:
    """One input or several as objects: a string is a text or, if it is the data: URL of an image, an image."""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, int | list) and not isinstance(item, bool) for item in items):
        raise ValueError(
            "token ids are not accepted, because they depend on the tokenizer that made them; send texts (LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False))"
        )
    if not all(isinstance(item, str | dict) for item in items):
        raise ValueError('send a string, {"text": ...}, {"image": base64}, or a list of these')
    return [{"image" if is_image_url(item) else "text": item} if isinstance(item, str) else item for item in items]


class OpenAIEmbeddingsRequest(RequestBody):
    """The request of OpenAI's embeddings API. An input that is a data: URL or {"image": base64} is an image.

    As in OpenAI's API, unknown fields are ignored, and null stands for the default. `model` and `user` have no effect.
    """

    model_config = ConfigDict(extra="ignore")

    input: Annotated[
        list[OpenAIInput],
        Field(fail_fast=True, min_length=1),
        BeforeValidator(_as_inputs, json_schema_input_type=str | OpenAIInput | list[str | OpenAIInput]),
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Field(ge=1)] = None
    user: str | None = None


def is_image_url(text: str) -> bool:
    """Whether a string is a data: URL of an image."""
    return text[:11].lower() == "data:image/"


Schema = dict[str, Any]
"""A JSON schema, or a part of an OpenAPI document."""


def openapi_body(model: type[RequestBody], *, form: bool) -> Schema:
    """The OpenAPI description of a request body, in JSON and, with `form`, as a multipart form."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    content: Schema = {"application/json": {"schema": schema}}
    if form:
        content["multipart/form-data"] = {"schema": _as_form(schema)}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: Schema) -> Any:
    """The schema with every `$ref` replaced by its definition, so that it is self-contained."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _as_form(schema: Schema) -> Schema:
    """The same fields; images are files, and a field that may be null in JSON is left out of a form."""
    fields = {}
    for name, field in schema["properties"].items():
        types = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        field = {**{key: value for key, value in field.items() if key != "anyOf"}, **(types[0] if types else {})}
        if name == "images":
            field["items"] = {"type": "string", "format": "binary"}
        fields[name] = {key: value for key, value in field.items() if not (key == "default" and value is None)}
    return {**schema, "properties": fields}
