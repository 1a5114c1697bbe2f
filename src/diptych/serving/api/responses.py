"""What is answered, as pydantic models: OpenAPI's description of each answer."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorInside(BaseModel):
    type: str
    message: str
    request_id: str


class ErrorTold(BaseModel):
    """The one shape of every error; `type` is a stable word, `request_id` stands in the server's log too."""

    error: ErrorInside


class EmbedTold(BaseModel):
    """Unit vectors in the order of what was sent; their dot products are cosines."""

    model: str
    dim: int
    image_vectors: list[list[float]]
    text_vectors: list[list[float]]


class HitTold(BaseModel):
    """A picture that was found; see `diptych.search.results.Hit`. Times are ISO 8601, local, without a zone."""

    id: str
    path: str
    score: float
    evidence: float | None
    width: int | None
    height: int | None
    size: int | None
    taken: str | None
    changed: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    caption: str | None
    copies: list[str]
    match: float | None


class SearchTold(BaseModel):
    """A page of hits, best first or by date; `nearest` is the best picture, hit or not."""

    query: str
    message: str
    total: int
    more: bool
    searched: int
    page: int
    before: int
    cutoff: str
    hits: list[HitTold]
    nearest: HitTold | None


class AlternativeTold(BaseModel):
    text: str
    score: float
    confidence: float | None


class RankedTold(BaseModel):
    text: str
    similarity: float
    probability: float


class CaptionedTold(BaseModel):
    best: str
    confidence: float | None
    alternatives: list[AlternativeTold]
    candidates: list[RankedTold]


class CaptionTold(BaseModel):
    """A caption for each picture, in the order of what was sent."""

    model: str
    captions: list[CaptionedTold]


class MatchTold(BaseModel):
    """P(match): a row for each picture, a column for each text."""

    model: str
    probabilities: list[list[float]]


class PromptInside(BaseModel):
    text: str
    score: float


class PromptTold(BaseModel):
    """Prompts for each picture, best first."""

    model: str
    prompts: list[list[PromptInside]]


class SkippedTold(BaseModel):
    path: str
    reason: str
    detail: str


class AddedTold(BaseModel):
    """What adding did, in pictures; see `diptych.search.add_report.Added`."""

    new: int
    unchanged: int
    renamed: int
    copied: int
    changed: int
    gone: int
    pruned: int
    embedded: int
    skipped: list[SkippedTold]
    seconds: float
    pictures: int
    pictures_per_second: float
    reasons: dict[str, int]


class RemovedTold(BaseModel):
    removed: int


class AddingTold(BaseModel):
    path: str
    seen: int


class StatusTold(BaseModel):
    """The index, and the folder that is being added to it now."""

    index: str | None
    model: str
    pictures: int
    roots: list[str] | None
    adding: AddingTold | None


class ModelTold(BaseModel):
    id: str
    object: str
    kind: str
    name: str
    available: bool
    loaded: bool


class ModelsTold(BaseModel):
    """The models of the service, one of each kind, in the shape of OpenAI's list."""

    object: str
    data: list[ModelTold]


class EmbeddingTold(BaseModel):
    object: str
    index: int
    embedding: list[float] | str


class UsageTold(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsTold(BaseModel):
    """OpenAI's answer; a base64 embedding is little-endian float32."""

    object: str
    model: str
    data: list[EmbeddingTold]
    usage: UsageTold


class HealthTold(BaseModel):
    status: str
