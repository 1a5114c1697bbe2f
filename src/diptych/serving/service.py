"""`Service`: embed, search, caption, match and prompt over one set of models and one index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from diptych.images.roots import Roots
from diptych.images.source import ImageLike, decoded, encoded, several
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent
from diptych.search.filters import Filters
from diptych.search.index import AddReport, Index
from diptych.search.results import Results
from diptych.serving.captions_and_prompts import combine_captions, make_prompts, non_empty_texts
from diptych.serving.loaded_models import Kind, LoadedModels
from diptych.serving.results import KEEP, CaptionedImage, Embeddings, GeneratedPrompt, IndexStatus, ModelStatus
from diptych.serving.served_index import ServedIndex

if TYPE_CHECKING:
    from diptych.captioning.captioner import Captioner
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.prompting.library import PromptLibrary
    from diptych.prompting.prompter import Prompter
    from diptych.search.retrieval import Sort
    from diptych.serving.loaded_models import Model

PromptMethod = Literal["retrieve", "compose", "generate"]
Method = Literal["beam", "greedy", "nucleus"]

_MIN_SIDE = 512  # pixels of the shorter side that are enough for captioners, matchers and prompters


class Service:
    """Search, captions, matching and prompts over one set of models and one index. Thread-safe.

    Args:
        model: The dual encoder: a name or path that `diptych.load` accepts, or a model.
        captioner: A captioner or its name or path; None uses the one that comes with `model`.
        matcher: A matcher or its name or path; None uses the one that comes with `model`.
        prompter: A prompter or its name or path; None uses the one that comes with `model`.
        index: A library or an index folder. The first `add` creates it if it does not exist. None uses the index of the
            folder that is added first.
        roots: The folders that `add` may read. Empty by default, because callers may be remote; None allows every path.
            An indexed image is read if it lies in the roots, in the library of the index, or in a folder that the
            owner of the index added on this machine, with all links resolved.
        follow_links: Read images wherever links and index rows lead, inside the roots or not.
        device: "auto", "cpu", "cuda" or "mps".

    Each model is loaded on first use.
    """

    def __init__(
        self,
        model: str | Path | DualEncoder = "mini",
        *,
        captioner: str | Path | Captioner | None = None,
        matcher: str | Path | Matcher | None = None,
        prompter: str | Path | Prompter | None = None,
        index: str | Path | None = None,
        roots: Sequence[str | Path] | None = (),
        follow_links: bool = False,
        device: str = "auto",
    ) -> None:
        models: dict[Kind, str | Path | Model | None] = {
            "encoder": model,
            "captioner": captioner,
            "matcher": matcher,
            "prompter": prompter,
        }
        self.loaded = LoadedModels(models, device)
        self._served_index = ServedIndex(self.loaded, index, roots, follow_links=follow_links)

    def at(self, index: str | Path | None) -> Service:
        """A service with the same loaded models, roots and link rule over another index."""
        other = Service()
        other.loaded = self.loaded
        own = self._served_index
        other._served_index = ServedIndex(self.loaded, index, own.named_roots, follow_links=own.follow_links)
        return other

    # models

    @property
    def encoder(self) -> DualEncoder:
        """The dual encoder, loaded on first use.

        Raises:
            ModelError: it cannot be loaded.
        """
        return self.loaded.get("encoder")

    def has(self, kind: Kind) -> bool:
        """Whether the service has an `encoder`, `captioner`, `matcher` or `prompter`; loads nothing.

        Raises:
            ModelError: the encoder's name is not a model.
        """
        return self.loaded.has(kind)

    def warm(self) -> None:
        """Load what the first text and the first search need, so that they are as fast as later ones.

        Raises:
            ModelError: the encoder cannot be loaded.
            DataError: the index cannot be read.
        """
        self.embed(texts=["a picture"])
        if self.index:
            self.search("a picture", k=1)

    def models(self) -> list[ModelStatus]:
        """The encoder, captioner, matcher and prompter: name, whether available, whether loaded; loads nothing."""
        return self.loaded.status()

    # images and texts

    def open(self, images: Iterable[ImageLike], min_side: int | None = None) -> list[Image.Image]:
        """The images upright and in RGB, decoded in threads; decoded ones are returned as they are.

        Args:
            images: Paths, encoded bytes or PIL images.
            min_side: Pixels of the shorter side that are enough: a JPEG is decoded at the next larger eighth.

        Raises:
            ImageError: an image cannot be decoded.
        """
        return list(prefetch(images, lambda image: decoded(image, min_side)))

    def embed(self, images: ImageLike | Iterable[ImageLike] = (), texts: str | Sequence[str] = ()) -> Embeddings:
        """Unit embeddings of images and texts in one space, float32: (images, dim) and (texts, dim).

        Args:
            images: One image or several: paths, encoded bytes or PIL images.
            texts: One text or several.

        Raises:
            ConfigError: a text is empty, or is not a string.
            ImageError: an image cannot be decoded.
            ModelError: the encoder cannot be loaded.
        """
        texts, opened = non_empty_texts(texts), self.open(several(images), self.encoder.image_size)
        with self.loaded.using("encoder") as encoder:
            return Embeddings(encoder.encode_images(opened), encoder.encode_texts(texts))

    def unknown_texts(self, texts: Sequence[str], kind: Literal["encoder", "matcher"] = "encoder") -> list[str]:
        """The distinct texts of which a model knows no word, in order: its numbers for them say nothing.

        Raises:
            ConfigError: a text is not a string.
            ModelError: there is no such model.
        """
        with self.loaded.using(kind) as model:
            return model.unknown_texts(texts)

    def match(self, image: ImageLike, texts: str | Sequence[str], *, prior: float | None = None) -> list[float]:
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
        texts = non_empty_texts(texts)
        return self.match_pairs([image] * len(texts), texts, prior=prior)

    def match_pairs(
        self, images: Sequence[ImageLike], texts: Sequence[str], *, prior: float | None = None
    ) -> list[float]:
        """P(match) of each image and the text at its position; raises as `match`."""
        distinct = {id(image): image for image in images}
        opened = dict(zip(distinct, self.open(distinct.values(), _MIN_SIDE), strict=True))
        with self.loaded.using("matcher") as matcher:
            probabilities = matcher.predict([opened[id(image)] for image in images], list(texts), prior=prior)
        return [float(probability) for probability in probabilities]

    def caption(
        self,
        images: Iterable[ImageLike],
        *,
        count: int = 1,
        method: Method = "beam",
        candidates: str | Sequence[str] = (),
        choose: bool = False,
        prefix: str = "",
        beams: int = 3,
        max_tokens: int = 30,
        temperature: float = 1.0,
        top_p: float = 0.9,
        seed: int = 0,
    ) -> list[CaptionedImage]:
        """A caption for each image, with the matcher's confidence where there is a matcher.

        Args:
            images: Paths, encoded bytes or PIL images.
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
        candidates, opened = non_empty_texts(candidates), self.open(images, _MIN_SIDE)
        if choose:
            self.loaded.get("matcher")  # raise before captions are generated
        with self.loaded.using("captioner") as captioner:
            captions = captioner.caption(
                opened,
                count=count,
                method=method,
                prefix=prefix,
                beams=beams,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
        return combine_captions(self.loaded, opened, captions, candidates=candidates, choose=choose)

    def prompt(
        self,
        images: Iterable[ImageLike],
        *,
        how: PromptMethod = "retrieve",
        count: int = 1,
        library: PromptLibrary | Sequence[str] | None = None,
    ) -> list[list[GeneratedPrompt]]:
        """Prompts that would produce images like these: for each image at most `count`, best first.

        Args:
            images: Paths, encoded bytes or PIL images.
            how: `retrieve` the nearest prompts of a library, `compose` them from a caption and phrases, or `generate`
                them with the captioner.
            count: Prompts per image, at least 1.
            library: Prompts to retrieve from; None uses the prompter's own.

        Raises:
            ConfigError: `how` is unknown, or `count` is below 1.
            ImageError: an image cannot be decoded.
            ModelError: there is no prompter, or `generate` lacks a captioner.
        """
        return make_prompts(self.loaded, self.open(images, _MIN_SIDE), how=how, count=count, library=library)

    # the index

    @property
    def index(self) -> Index | None:
        """The index, opened on first use; None if there is none yet.

        Raises:
            DataError: the index cannot be read.
        """
        return self._served_index.get()

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: ImageLike | Sequence[ImageLike] | None = None,
        like: str | Sequence[str] | None = None,
        unwanted: str | Sequence[str] | None = None,
        filters: Filters | None = None,
        k: int = 20,
        page: int = 1,
        sort: Sort = "score",
        keep: float | None = KEEP,
        fold: bool = True,
        rerank: int = 0,
    ) -> Results:
        """The indexed images that match texts, images, or both.

        Other threads can use the models while the index is scanned: a search holds them only to embed the query and to
        re-rank.

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
        from diptych.search.query import Query  # slow to import, and a server listens before the first search

        index = self._served_index.existing()
        images = [encoded(each) for each in several(image)]
        query = Query.of(text or (), image=images, like=like or (), unwanted=unwanted or ())
        matcher = self.loaded.get("matcher") if rerank else None
        with self._served_index.guarded():
            return index.search(
                query,
                k=k,
                page=page,
                filters=filters,
                sort=sort,
                keep=keep,
                fold=fold,
                rerank=rerank,
                matcher=matcher,
            )

    def similar(self, id: str, *, k: int = 20, page: int = 1, filters: Filters | None = None) -> Results:
        """The images that are nearest to an indexed image, without the image itself.

        Args:
            id: The id of the indexed image, as in `Hit.id`.
            k: Results per page, at least 1.
            page: Page number, from 1; `k * page` is at most 5,000.
            filters: Conditions on folder, date, size, shape, camera and caption.

        Raises:
            ConfigError: `k` or `page` is out of range.
            DataError: there is no index, or the id is not in it.
        """
        return self.search(like=id, k=k, page=page, filters=filters)

    def add(
        self, path: str | Path, *, prune: bool = False, progress: Progress = silent, wait: float | None = None
    ) -> AddReport:
        """Bring the index up to date with a folder inside `roots`; creates the index if there is none.

        Args:
            path: A folder, a data set, tar shards or stored embeddings, as for `Index.add`.
            prune: Remove images of the folder whose files are gone.
            progress: Wraps the files and shows how far they are processed.
            wait: Seconds to wait while another thread or process writes; None waits without limit.

        Raises:
            DataError: the path is outside `roots`, does not exist, or cannot be read.
            IndexBusy: something else still writes after `wait` seconds.
        """
        return self._served_index.add(path, prune=prune, progress=progress, wait=wait)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove images from the index by their ids; returns how many were in it. Their files are not touched.

        Raises:
            DataError: there is no index.
            IndexBusy: something else writes to it.
        """
        return self._served_index.remove(ids)

    def image(self, id: str, *, size: int | None = None) -> Image.Image:
        """An indexed image by its id; with `size`, its longer side has at most `size` pixels.

        Raises:
            DataError: there is no index, or the id is not in it.
            ImageError: the file is gone, lies outside the folders that may be read, or cannot be decoded.
        """
        return self._served_index.image(id, size)

    def image_bytes(self, id: str) -> bytes:
        """The encoded bytes of an indexed image; raises as `image`."""
        return self._served_index.image_bytes(id)

    @property
    def readable(self) -> Roots:
        """The folders in which indexed images may lie."""
        return self._served_index.readable()

    def status(self) -> IndexStatus:
        """The index's folder, its model, its number of images, the roots, and the folder being added now.

        Raises:
            DataError: the index cannot be read.
        """
        return self._served_index.status()

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside `roots`.

        Raises:
            DataError: it lies outside, or does not exist.
        """
        return self._served_index.allowed(path)
