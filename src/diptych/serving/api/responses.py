"""Response bodies of the API. Nested objects are the result types of `diptych.serving` and `diptych.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from diptych.images.skipped import Skipped
from diptych.search.results import Hit
from diptych.serving.results import CaptionedImage, GeneratedPrompt, Kind

# Fields with a default are always present in a response; nested dataclasses inherit this.
_COMPLETE = ConfigDict(json_schema_serialization_defaults_required=True)


@dataclass(frozen=True, slots=True)
class EmbedResponse:
    """Unit embeddings in the order of the request; their dot products are cosines.

    `unknown` are the texts of which the model knows no word, so that their embeddings say nothing about them.
    """

    model: str
    dim: int
    image_embeddings: list[list[float]]
    text_embeddings: list[list[float]]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class SearchResponse:
    """A page of results, by score or by date; `nearest` is the nearest image, result or not. Times are local.

    `unknown` are the texts of the query of which the model knows no word.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _COMPLETE

    query: str
    message: str
    total: int
    more: bool
    searched: int
    page: int
    cutoff: str
    hits: tuple[Hit, ...]
    nearest: Hit | None
    unknown: tuple[str, ...]
    before: int


@dataclass(frozen=True, slots=True)
class CaptionResponse:
    """A caption for each image, in the order of the request.

    `unknown` are the candidates of which the model knows no word, so that their rank says nothing.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _COMPLETE

    model: str
    captions: list[CaptionedImage]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class MatchResponse:
    """P(match) in [0, 1]: a row for each image, a column for each text.

    `unknown` are the texts of which the model knows no word, so that their probabilities say nothing.
    """

    model: str
    probabilities: list[list[float]]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class PromptResponse:
    """Prompts for each image, best first."""

    model: str
    prompts: list[list[GeneratedPrompt]]


@dataclass(frozen=True, slots=True)
class AddResponse:
    """What adding a folder did, in images; see `diptych.search.add_report.AddReport`."""

    new: int
    unchanged: int
    renamed: int
    copied: int
    changed: int
    gone: int
    pruned: int
    unreachable: int
    excluded: int
    rebased: int
    embedded: int
    skipped: tuple[Skipped, ...]
    seconds: float
    unreachable_folders: tuple[str, ...]
    unmatched: tuple[str, ...]
    unread: dict[str, int]
    images: int
    images_per_second: float
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class RemoveResponse:
    """How many images were removed."""

    removed: int


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the service, with OpenAI's `id` and `object`."""

    id: str
    object: Literal["model"]
    kind: Kind
    name: str
    available: bool
    loaded: bool


@dataclass(frozen=True, slots=True)
class ModelsResponse:
    """The models of the service, one of each kind, in the shape of OpenAI's list."""

    object: Literal["list"]
    data: list[ModelEntry]


@dataclass(frozen=True, slots=True)
class OpenAIEmbedding:
    """An embedding.

    Attributes:
        object: As OpenAI names it.
        index: The position of the input.
        embedding: A list of numbers, or base64 of little-endian float32.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


@dataclass(frozen=True, slots=True)
class OpenAIUsage:
    """The tokens that the text tower read.

    Attributes:
        prompt_tokens: Their number, padding excluded.
        total_tokens: The same number.
    """

    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddingsResponse:
    """The response of OpenAI's embeddings API."""

    object: Literal["list"]
    model: str
    data: list[OpenAIEmbedding]
    usage: OpenAIUsage


@dataclass(frozen=True, slots=True)
class HealthResponse:
    """The state of the server."""

    status: Literal["ok", "ready"]
