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
from diptych.search.index import AddReport, Index
from diptych.search.results import Results
from diptych.serving.captions_and_prompts import combine_captions, make_prompts, non_empty_texts
from diptych.serving.image_service import ImageService
from diptych.serving.loaded_models import Kind, LoadedModels
from diptych.serving.parameters import (
    CaptionParameters,
    MatchParameters,
    PromptMethod,
    PromptParameters,
    SearchParameters,
)
from diptych.serving.results import CaptionedImage, Embeddings, GeneratedPrompt, IndexStatus, ModelStatus
from diptych.serving.served_index import ServedIndex

if TYPE_CHECKING:
    from diptych.captioning.captioner import Captioner
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.prompting.library import PromptLibrary
    from diptych.prompting.prompter import Prompter
    from diptych.serving.loaded_models import Model

_MIN_SIDE = 512  # pixels of the shorter side that are enough for captioners, matchers and prompters


class Service(ImageService):
    """Search, captions, matching and prompts over one set of models and one index. Thread-safe.

    Args:
        model: The dual encoder: a name or path that `diptych.load` accepts, or a model.
        captioner: A captioner or its name or path; None uses the one that comes with `model`.
        matcher: A matcher or its name or path; None uses the one that comes with `model`.
        prompter: A prompter or its name or path; None uses the one that comes with `model`.
        index: A library or an index folder. The first `add` creates it if it does not exist. None uses the index of the
            folder that is added first.
        roots: The folders that `add` may read, one or several. Empty by default, because callers may be remote; None
            allows every path. An indexed image is read if it lies in the roots, in the library of the index, or in a
            folder that the owner of the index added on this machine, with all links resolved.
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
        roots: str | Path | Sequence[str | Path] | None = (),
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
        folders = [roots] if isinstance(roots, str | Path) else roots
        self._served_index = ServedIndex(self.loaded, index, folders, follow_links=follow_links)

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
        """The encoder, captioner, matcher and prompter; see the base class."""
        return self.loaded.status()

    # images and texts

    def open(self, images: ImageLike | Iterable[ImageLike], min_side: int | None = None) -> list[Image.Image]:
        """The images upright and in RGB, decoded in threads; decoded ones are returned as they are.

        Args:
            images: One image or several: paths, encoded bytes or PIL images.
            min_side: Pixels of the shorter side that are enough: a JPEG is decoded at the next larger eighth.

        Raises:
            ImageError: an image cannot be decoded.
        """
        return list(prefetch(several(images), lambda image: decoded(image, min_side)))

    def run_embed(self, images: Sequence[ImageLike], texts: Sequence[str]) -> Embeddings:
        """`embed` of lists."""
        checked, opened = non_empty_texts(texts), self.open(images, self.encoder.image_size)
        with self.loaded.using("encoder") as encoder:
            return Embeddings(encoder.encode_images(opened), encoder.encode_texts(checked))

    def unknown_texts(self, texts: Sequence[str], kind: Literal["encoder", "matcher"] = "encoder") -> list[str]:
        """The distinct texts of which a model knows no word, in order: its numbers for them say nothing.

        Raises:
            ConfigError: a text is not a string.
            ModelError: there is no such model.
        """
        with self.loaded.using(kind) as model:
            return model.unknown_texts(texts)

    def run_match(self, images: Sequence[ImageLike], parameters: MatchParameters) -> list[list[float]]:
        """P(match) of each image with each text: (images, texts)."""
        texts = non_empty_texts(parameters.texts)
        opened = self.open(images, _MIN_SIDE)
        pairs = [(image, text) for image in opened for text in texts]
        with self.loaded.using("matcher") as matcher:
            probabilities = iter(
                matcher.predict([image for image, _ in pairs], [text for _, text in pairs], prior=parameters.prior)
            )
        return [[float(next(probabilities)) for _ in texts] for _ in opened]

    def run_caption(self, images: Sequence[ImageLike], parameters: CaptionParameters) -> list[CaptionedImage]:
        """`caption` of a list of images."""
        candidates, opened = non_empty_texts(parameters.candidates), self.open(images, _MIN_SIDE)
        if parameters.choose:
            self.loaded.get("matcher")  # raise before captions are generated
        with self.loaded.using("captioner") as captioner:
            captions = captioner.caption_with(opened, parameters.generation(), prefix=parameters.prefix)
        return combine_captions(self.loaded, opened, captions, candidates=candidates, choose=parameters.choose)

    def prompt(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        how: PromptMethod = "retrieve",
        count: int = 1,
        library: PromptLibrary | str | Sequence[str] | None = None,
    ) -> list[list[GeneratedPrompt]]:
        """Prompts that would produce images like these; see the base class.

        `library` are the prompts to retrieve from; None uses the prompter's own.
        """
        opened, prompts = self.open(images, _MIN_SIDE), [library] if isinstance(library, str) else library
        return make_prompts(self.loaded, opened, how=how, count=count, library=prompts)

    def run_prompt(self, images: Sequence[ImageLike], parameters: PromptParameters) -> list[list[GeneratedPrompt]]:
        """`prompt` of a list of images."""
        return self.prompt(images, how=parameters.how, count=parameters.count)

    # the index

    @property
    def index(self) -> Index | None:
        """The index, opened on first use; None if there is none yet.

        Raises:
            DataError: the index cannot be read.
        """
        return self._served_index.get()

    def run_search(self, parameters: SearchParameters) -> Results:
        """`search` with its parameters in one object.

        Other threads can use the models while the index is scanned: a search holds them only to embed the query and to
        re-rank.
        """
        from diptych.search.query import Query  # slow to import, and a server listens before the first search

        index = self._served_index.existing()
        images = [encoded(image) for image in parameters.images]
        query = Query.of(parameters.texts, image=images, like=parameters.like, unwanted=parameters.unwanted)
        matcher = self.loaded.get("matcher") if parameters.rerank else None
        with self._served_index.guarded():
            return index.search(query, matcher=matcher, **parameters.paging())

    def add(
        self, path: str | Path, *, prune: bool = False, progress: Progress = silent, wait: float | None = None
    ) -> AddReport:
        """Bring the index up to date with a folder inside `roots`; see the base class.

        `progress` wraps the files and shows how far they are processed. `wait` is how many seconds to wait while
        another thread or process writes; None waits without limit.
        """
        return self._served_index.add(path, prune=prune, progress=progress, wait=wait)

    def run_remove(self, ids: Sequence[str]) -> int:
        """`remove` of a list of ids."""
        return self._served_index.remove(ids)

    def image(self, image_id: str, *, size: int | None = None) -> Image.Image:
        """An indexed image by its id; with `size`, its longer side has at most `size` pixels.

        Raises:
            DataError: there is no index, or the id is not in it.
            ImageError: the file is gone, lies outside the folders that may be read, or cannot be decoded.
        """
        return self._served_index.image(image_id, size)

    def image_bytes(self, image_id: str) -> bytes:
        """The encoded bytes of an indexed image; raises as `image`."""
        return self._served_index.image_bytes(image_id)

    @property
    def readable(self) -> Roots:
        """The folders in which indexed images may lie."""
        return self._served_index.readable()

    def status(self) -> IndexStatus:
        """The index's folder, model, number of images, roots, and the folder being added; see the base class."""
        return self._served_index.status()

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside `roots`; it is read as that of `add`.

        Raises:
            DataError: it lies outside, or does not exist.
        """
        return self._served_index.allowed(path)

    def read_allowed(self, path: str | Path) -> bytes:
        """The bytes of an image file inside `roots`; it is named as for `allowed`, and a link cannot replace it.

        Raises:
            DataError: it lies outside, does not exist, or cannot be read.
        """
        return self._served_index.read_allowed(path)
