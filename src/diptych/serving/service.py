"""One facade over everything: embed, search, caption, match, prompt. The page, the API and the agents stand on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from diptych.images.roots import Roots
from diptych.images.source import ImageLike, decoded, encoded, several
from diptych.runtime.background import prefetch
from diptych.runtime.progress import Progress, silent
from diptych.search.filters import Filters
from diptych.search.index import Added, Index
from diptych.search.results import Results
from diptych.serving.captions_and_prompts import as_texts, captions, prompts
from diptych.serving.loaded_models import Kind, LoadedModels
from diptych.serving.results import KEEP, Captioned, Embedded, GeneratedPrompt
from diptych.serving.served_index import ServedIndex

if TYPE_CHECKING:
    from diptych.models.dual_encoder import DualEncoder
    from diptych.search.retrieval import Sort

How = Literal["retrieve", "compose", "generate"]

_CLOSE = 512  # pixels of the shorter side that are enough for every model that looks closely


class Service:
    """Search, captions, matching and prompts over one set of models and one index; threads may share it.

    `model` is a name or path that `diptych.load` knows, or a model; `captioner`, `matcher` and `prompter` likewise, and
    None means the one that the model brings. Each is loaded when it is first used. `index` is a library or an index
    folder, made by the first `add` if it is not there. `roots` are the folders that `add` may read: none as it comes,
    since who asks may be somebody on the network; None allows every path. A picture of the index is read if it lies in
    the roots, in the library of the index, or in a folder that its owner indexed on this machine, all links resolved;
    with `follow_links`, wherever it lies.
    """

    def __init__(
        self,
        model: str | Path | DualEncoder = "mini",
        *,
        captioner: Any = None,
        matcher: Any = None,
        prompter: Any = None,
        index: str | Path | None = None,
        roots: Sequence[str | Path] | None = (),
        follow_links: bool = False,
        device: str = "auto",
    ) -> None:
        named: dict[Kind, Any] = {"captioner": captioner, "matcher": matcher, "prompter": prompter}
        self.loaded = LoadedModels({"encoder": model, **named}, device)
        self._library = ServedIndex(self.loaded, index, roots, follow_links=follow_links)

    def at(self, index: str | Path | None) -> Service:
        """The same models, loaded once, over another index."""
        other = Service()
        other.loaded = self.loaded
        other._library = ServedIndex(
            self.loaded, index, self._library.named_roots, follow_links=self._library.follow_links
        )
        return other

    # models

    @property
    def encoder(self) -> DualEncoder:
        return self.loaded.get("encoder")

    def has(self, kind: Kind) -> bool:
        """Whether there is an `encoder`, `captioner`, `matcher` or `prompter`, without loading it."""
        return self.loaded.has(kind)

    def warm(self) -> None:
        """Load what the first text and the first search need, so that they take no longer than those after them."""
        self.embed(texts=["a picture"])
        if self.index:
            self.search("a picture", count=1)

    def models(self) -> list[dict[str, Any]]:
        """The models of each kind: `kind`, `name`, whether `available` and whether `loaded`."""
        return self.loaded.told()

    # pictures and texts

    def open(self, pictures: Iterable[ImageLike], min_side: int | None = None) -> list[Image.Image]:
        """Pictures upright and in RGB, decoded in threads; a JPEG no larger than a shorter side of `min_side` needs.

        Raises:
            ImageError: one cannot be decoded.
        """
        return list(prefetch(pictures, lambda picture: decoded(picture, min_side)))

    def embed(self, images: ImageLike | Iterable[ImageLike] = (), texts: str | Sequence[str] = ()) -> Embedded:
        """Pictures and texts as unit vectors of one space; one of either may be given as it is.

        Raises:
            ConfigError: a text is empty, or is not a string.
            ImageError: a picture cannot be decoded.
        """
        texts, pictures = as_texts(texts), self.open(several(images), self.encoder.image_size)
        with self.loaded.using("encoder") as encoder:
            return Embedded(encoder.encode_images(pictures), encoder.encode_texts(texts))

    def match(self, image: ImageLike, texts: Sequence[str], *, prior: float | None = None) -> list[float]:
        """The probability of each text that it belongs to the picture, in [0, 1].

        Raises:
            ConfigError: a text is empty or is not a string, or the prior is not a share.
            ImageError: the picture cannot be decoded.
            ModelError: there is no matcher.
        """
        texts = as_texts(texts)
        return self.match_pairs([image] * len(texts), texts, prior=prior)

    def match_pairs(
        self, images: Sequence[ImageLike], texts: Sequence[str], *, prior: float | None = None
    ) -> list[float]:
        """The probability of each picture that it belongs to the text beside it; raises as `match`."""
        different = {id(image): image for image in images}
        opened = dict(zip(different, self.open(different.values(), _CLOSE), strict=True))
        with self.loaded.using("matcher") as matcher:
            found = matcher.predict([opened[id(image)] for image in images], list(texts), prior=prior)
        return [float(probability) for probability in found]

    def caption(
        self,
        images: Iterable[ImageLike],
        *,
        count: int = 1,
        method: str = "beam",
        candidates: Sequence[str] = (),
        choose: bool = False,
        **settings: Any,
    ) -> list[Captioned]:
        """A caption for each picture, with the matcher's confidence where there is a matcher.

        `count` captions are written, best first by the captioner, or with `choose` by captioner and matcher together
        (`diptych.choose`); the captions given as `candidates` are ranked beside them. `settings` are those of the
        captioner: `beams`, `prefix`, `max_tokens`, `temperature`, `top_p`, `seed`.

        Raises:
            ConfigError: a candidate is empty, or a setting is out of range.
            ImageError: a picture cannot be decoded.
            ModelError: there is no captioner, or no matcher that could choose.
        """
        asked = {"candidates": as_texts(candidates), "choose": choose, "count": count, "method": method, **settings}
        return captions(self.loaded, self.open(images, _CLOSE), **asked)

    def prompt(
        self, images: Iterable[ImageLike], *, how: How = "retrieve", count: int = 1, library: Any = None
    ) -> list[list[GeneratedPrompt]]:
        """Prompts that would make pictures like these, for each its own, best first.

        Raises:
            ImageError: a picture cannot be decoded.
            ModelError: there is no prompter, or none that can do it like that.
        """
        return prompts(self.loaded, self.open(images, _CLOSE), how=how, count=count, library=library)

    # the index

    @property
    def index(self) -> Index | None:
        """The index, opened when first asked for; None while there is none."""
        return self._library.get()

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: ImageLike | Sequence[ImageLike] | None = None,
        like: str | Sequence[str] | None = None,
        unwanted: str | Sequence[str] | None = None,
        filters: Filters | None = None,
        count: int = 20,
        page: int = 1,
        sort: Sort = "score",
        keep: float | None = KEEP,
        fold: bool = True,
        rerank: int = 0,
    ) -> Results:
        """The pictures of the index that match texts, pictures, or both; see `diptych.search.retrieval.search`.

        `like` names pictures of the index by their ids. `rerank` has the service's matcher look again at so many of the
        first hits.

        Raises:
            ConfigError: nothing is asked for, or a setting is out of range.
            DataError: there is no index, or no such picture in it.
            IndexMissing: the index was removed.
            ImageError: a picture of the query cannot be decoded.
        """
        from diptych.search.query import Query  # takes seconds to import, and a server listens before

        index = self._library.existing()
        pictures = [encoded(picture) for picture in several(image)]
        query = Query.of(text or (), image=pictures, like=like or (), unwanted=unwanted or ())
        if rerank:
            index.matcher = self.loaded.get("matcher")
        with self._library.guarded(), self.loaded.using("encoder"):
            return index.search(
                query, k=count, page=page, filters=filters, sort=sort, keep=keep, fold=fold, rerank=rerank
            )

    def similar(self, id: str, *, count: int = 20, page: int = 1, filters: Filters | None = None) -> Results:
        """The pictures that are nearest to one of the index, which is named by its id.

        Raises:
            DataError: there is no index, or no such picture in it.
        """
        return self.search(like=id, count=count, page=page, filters=filters)

    def add(
        self, path: str | Path, *, prune: bool = False, progress: Progress = silent, wait: float | None = None
    ) -> Added:
        """Bring the index up to date with a folder inside `roots`; makes the index if there is none.

        Raises:
            DataError: the path is outside `roots` or not there, or cannot be read.
            IndexBusy: another process still writes after `wait` seconds.
        """
        return self._library.add(path, prune=prune, progress=progress, wait=wait)

    def remove(self, ids: Sequence[str]) -> int:
        """Take pictures out of the index, by their ids; returns how many were there. The files are not touched.

        Raises:
            DataError: there is no index.
            IndexBusy: something else writes to it.
        """
        return self._library.remove(ids)

    def picture(self, id: str, *, size: int | None = None) -> Image.Image:
        """A picture of the index by its id; with `size`, its longer side has at most so many pixels.

        Raises:
            DataError: there is no index, or no such picture in it.
            ImageError: the file is gone, lies outside what may be read, or cannot be decoded.
        """
        return self._library.picture(id, size)

    def picture_bytes(self, id: str) -> bytes:
        """The encoded bytes of a picture of the index; raises as `picture`."""
        return self._library.picture_bytes(id)

    @property
    def readable(self) -> Roots:
        """Where the pictures of the index may lie."""
        return self._library.readable()

    def status(self) -> dict[str, Any]:
        """The index's folder, model and number of pictures, the roots, and what is being added now."""
        return self._library.status()

    def allowed(self, path: str | Path) -> Path:
        """The path with its links resolved, if it lies inside `roots`.

        Raises:
            DataError: it does not, or is not there.
        """
        return self._library.allowed(path)
