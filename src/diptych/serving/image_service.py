"""`ImageService`: the methods that `Service` and `Client` share, with their parameters and documentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.images.source import ImageLike, several
from diptych.models.modalities import as_texts
from diptych.search.add_report import AddReport
from diptych.search.filters import Filters
from diptych.search.results import Results
from diptych.serving.names import as_names
from diptych.serving.parameters import (
    KEEP,
    CaptionParameters,
    MatchParameters,
    Method,
    PromptMethod,
    PromptParameters,
    SearchParameters,
)
from diptych.serving.results import CaptionedImage, Embeddings, GeneratedPrompt, IndexStatus, ModelStatus

if TYPE_CHECKING:
    from diptych.search.retrieval import Sort


class ImageService(ABC):
    """Search, captions, matching and prompts over one set of models and one index.

    `Service` runs them in this process and `Client` over HTTP. Wherever several images, texts or ids are accepted, a
    single one counts as one; a string among images is a path.
    """

    # images and texts

    def embed(self, images: ImageLike | Iterable[ImageLike] = (), texts: str | Iterable[str] = ()) -> Embeddings:
        """Unit embeddings of images and texts in one space, float32: (images, dim) and (texts, dim).

        Args:
            images: One image or several: paths, encoded bytes or PIL images.
            texts: One text or several.

        Raises:
            ConfigError: a text is empty, or is not a string.
            ImageError: an image cannot be decoded.
            ModelError: the encoder cannot be loaded.
        """
        return self.run_embed(several(images), as_texts(texts))

    def match(self, image: ImageLike, texts: str | Iterable[str], *, prior: float | None = None) -> list[float]:
        """P(match) of the image and each text, in [0, 1].

        Args:
            image: A path, encoded bytes or a PIL image.
            texts: One text or several.
            prior: The expected share of matches, in (0, 1); None keeps the share the matcher was calibrated for.

        Raises:
            ConfigError: a text is empty or is not a string, or `prior` is out of range.
            ImageError: the image cannot be decoded.
            ModelError: there is no matcher.
        """
        return self.run_match([image], MatchParameters(tuple(as_texts(texts)), prior))[0]

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        count: int = 1,
        method: Method = "beam",
        candidates: str | Iterable[str] = (),
        choose: bool = False,
        prefix: str = "",
        beams: int = 3,
        max_tokens: int = 30,
        temperature: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
    ) -> list[CaptionedImage]:
        """A caption for each image, with the matcher's confidence where there is a matcher.

        A server accepts `count` and `beams` up to 10, `max_tokens` up to 100, and a `temperature` from 0.01 to 10.

        Args:
            images: One image or several: paths, encoded bytes or PIL images.
            count: Captions per image, at least 1: the best first.
            method: Decoding strategy: beam search, greedy, or nucleus sampling.
            candidates: Captions to rank by their cosine with each image, beside the generated ones.
            choose: Order the generated captions by captioner and matcher together (`diptych.choose`) instead of by the
                captioner alone.
            prefix: Text that every caption starts with.
            beams: Beam width, at least `count` for beam search.
            max_tokens: Maximum length of a caption, at least 1.
            temperature: Sampling temperature of `nucleus`, above 0.
            top_p: Share of the probability that `nucleus` samples from, in (0, 1].
            seed: Seed of `nucleus`.

        Raises:
            ConfigError: a candidate is empty, or a setting is out of range.
            ImageError: an image cannot be decoded.
            ModelError: there is no captioner, or with `choose` no matcher.
        """
        parameters = CaptionParameters(
            count=count,
            method=method,
            candidates=tuple(as_texts(candidates)),
            choose=choose,
            prefix=prefix,
            beams=beams,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        return self.run_caption(several(images), parameters)

    def prompt(
        self, images: ImageLike | Iterable[ImageLike], *, how: PromptMethod = "retrieve", count: int = 1
    ) -> list[list[GeneratedPrompt]]:
        """Prompts that would produce images like these: for each image at most `count`, best first.

        A server accepts `count` up to 20.

        Args:
            images: One image or several: paths, encoded bytes or PIL images.
            how: `retrieve` the nearest prompts of the prompter's library, `compose` them from a caption and phrases, or
                `generate` them with the captioner.
            count: Prompts per image, at least 1.

        Raises:
            ConfigError: `how` is unknown, or `count` is below 1.
            ImageError: an image cannot be decoded.
            ModelError: there is no prompter, or `generate` lacks a captioner.
        """
        return self.run_prompt(several(images), PromptParameters(how, count))

    # the index

    def search(
        self,
        text: str | Iterable[str] | None = None,
        *,
        image: ImageLike | Iterable[ImageLike] | None = None,
        like: str | Iterable[str] | None = None,
        unwanted: str | Iterable[str] | None = None,
        filters: Filters | None = None,
        k: int = 20,
        page: int = 1,
        sort: Sort = "score",
        keep: float | None = KEEP,
        fold: bool = True,
        rerank: int = 0,
    ) -> Results:
        """The indexed images that match texts, images, or both.

        A server accepts `k` and `rerank` up to 200.

        Args:
            text: One text or several.
            image: One image or several: paths, encoded bytes or PIL images.
            like: Indexed images, by id.
            unwanted: Texts that push images down.
            filters: Conditions on folder, date, size, shape, camera and caption.
            k: Results per page, at least 1.
            page: Page number, from 1; `k * page` is at most 5,000.
            sort: By `score`, or the matching images by date: `newest` or `oldest` first.
            keep: Relevance cutoff: the share in [0, 1] of queries with a match that still find one; lower is stricter.
                None returns the nearest images whether they match or not.
            fold: Fold copies of an image into one result.
            rerank: Reorder so many of the first results by the service's matcher, 0 to 5,000. Needs a query of a single
                text, sorted by score.

        Raises:
            ConfigError: the query is empty, or a setting is out of range.
            DataError: there is no index, or an id of `like` is not in it.
            IndexMissing: the index was removed.
            ImageError: an image of the query cannot be decoded.
            ModelError: `rerank` without a matcher.
        """
        parameters = SearchParameters(
            texts=tuple(as_texts(text or ())),
            images=tuple(several(image)),
            like=as_names(like),
            unwanted=tuple(as_texts(unwanted or ())),
            filters=filters,
            k=k,
            page=page,
            sort=sort,
            keep=keep,
            fold=fold,
            rerank=rerank,
        )
        return self.run_search(parameters)

    def similar(self, image_id: str, *, k: int = 20, page: int = 1, filters: Filters | None = None) -> Results:
        """The images that are nearest to an indexed image, without the image itself.

        Args:
            image_id: The id of the indexed image, as in `Hit.id`.
            k: Results per page, at least 1.
            page: Page number, from 1; `k * page` is at most 5,000.
            filters: Conditions on folder, date, size, shape, camera and caption.

        Raises:
            ConfigError: `k` or `page` is out of range.
            DataError: there is no index, or the id is not in it.
        """
        return self.search(like=image_id, k=k, page=page, filters=filters)

    @abstractmethod
    def add(self, path: str | Path, *, prune: bool = False) -> AddReport:
        """Bring the index up to date with a folder; creates the index if there is none.

        Args:
            path: A folder, a data set, tar shards or stored embeddings, as for `Index.add`: a path or a `file:` URI,
                absolute, or relative to the working directory or to a root.
            prune: Remove images of the folder whose files are gone.

        Raises:
            DataError: the path is outside the roots, does not exist, or cannot be read.
            IndexBusy: something else writes to the index.
        """

    def remove(self, ids: str | Iterable[str]) -> int:
        """Remove images from the index by their ids; returns how many were in it. Their files are not touched.

        Raises:
            DataError: there is no index.
            IndexBusy: something else writes to it.
        """
        return self.run_remove(as_names(ids))

    @abstractmethod
    def status(self) -> IndexStatus:
        """The index's folder, its model, its number of images, the roots, and the folder being added now.

        Raises:
            DataError: the index cannot be read.
        """

    @abstractmethod
    def models(self) -> list[ModelStatus]:
        """The encoder, captioner, matcher and prompter: name, whether available, whether loaded; loads nothing."""

    # the same with parameters that are already checked and bundled

    @abstractmethod
    def run_embed(self, images: Sequence[ImageLike], texts: Sequence[str]) -> Embeddings:
        """`embed` of lists."""

    @abstractmethod
    def run_match(self, images: Sequence[ImageLike], parameters: MatchParameters) -> list[list[float]]:
        """P(match) of each image with each text: (images, texts). Raises as `match`."""

    @abstractmethod
    def run_caption(self, images: Sequence[ImageLike], parameters: CaptionParameters) -> list[CaptionedImage]:
        """`caption` of a list of images."""

    @abstractmethod
    def run_prompt(self, images: Sequence[ImageLike], parameters: PromptParameters) -> list[list[GeneratedPrompt]]:
        """`prompt` of a list of images."""

    @abstractmethod
    def run_search(self, parameters: SearchParameters) -> Results:
        """`search` with its parameters in one object."""

    @abstractmethod
    def run_remove(self, ids: Sequence[str]) -> int:
        """`remove` of a list of ids."""
