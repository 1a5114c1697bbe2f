"""Parameters of a service's methods, as `Service`, `Client` and the routes of the API pass them on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from diptych.images.source import ImageLike
from diptych.search.filters import Filters

if TYPE_CHECKING:
    from diptych.captioning.strategies import GenerationConfig
    from diptych.search.retrieval import Sort

KEEP = 0.95
"""Default of `keep` in a search: `diptych.search.cutoff.KEEP`, repeated here because that module is slow to import."""

Method = Literal["beam", "greedy", "nucleus"]
PromptMethod = Literal["retrieve", "compose", "generate"]


class Paging(TypedDict):
    """How a search presents its results; the meanings are those of `ImageService.search`."""

    k: int
    page: int
    filters: Filters | None
    sort: Sort
    keep: float | None
    fold: bool
    rerank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParameters:
    """The parameters of `ImageService.search`."""

    texts: tuple[str, ...] = ()
    images: tuple[ImageLike, ...] = ()
    like: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    filters: Filters | None = None
    k: int = 20
    page: int = 1
    sort: Sort = "score"
    keep: float | None = KEEP
    fold: bool = True
    rerank: int = 0

    def paging(self) -> Paging:
        """All but the query, as keyword arguments."""
        return cast("Paging", {name: getattr(self, name) for name in Paging.__annotations__})


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionParameters:
    """The parameters of `ImageService.caption` but the images; requests with equal ones share a batch."""

    count: int
    method: Method
    candidates: tuple[str, ...]
    choose: bool
    prefix: str
    beams: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int

    def generation(self) -> GenerationConfig:
        """The settings of the decoder.

        Raises:
            ConfigError: one is out of its range.
        """
        from diptych.captioning.strategies import GenerationConfig

        return GenerationConfig(
            self.method, self.beams, self.count, self.max_tokens, self.temperature, self.top_p, self.seed
        )


@dataclass(frozen=True, slots=True)
class MatchParameters:
    """The parameters of `ImageService.match` but the image; requests with equal ones share a batch."""

    texts: tuple[str, ...]
    prior: float | None = None


@dataclass(frozen=True, slots=True)
class PromptParameters:
    """The parameters of `ImageService.prompt` but the images; requests with equal ones share a batch."""

    how: PromptMethod = "retrieve"
    count: int = 1


FILTERS = tuple(field.name for field in fields(Filters))
