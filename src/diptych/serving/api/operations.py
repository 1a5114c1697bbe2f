"""What the API does with a service: each operation of a model batched over the requests that arrive together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from diptych.images.decode import decode, thumbnail
from diptych.search.index import Added
from diptych.serving.api.batching import Batcher
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import Room
from diptych.serving.api.prometheus import ServerMetrics
from diptych.serving.api.settings import Settings
from diptych.serving.results import Captioned, GeneratedPrompt
from diptych.serving.service import Service

_CLOSE = 512  # pixels of the shorter side at which a JPEG is decoded for models that look closely
_KEPT = 1_024  # pixels of the longer side of a picture that waits for its batch

Setting = tuple[tuple[str, Any], ...]
Pool = Literal["decode", "ask", "show", "write"]


class Operations:
    """A service for many requests at once; used from one event loop. `rows` is the room for pictures and texts."""

    def __init__(self, service: Service, settings: Settings, figures: ServerMetrics) -> None:
        self.service, self.settings, self.figures = service, settings, figures
        self.rows = Room(max(8 * settings.batch, 4 * settings.max_rows), "pictures and texts")
        self._pools: dict[Pool, ThreadPoolExecutor] = {}
        self._ending = threading.Event()

    def open(self) -> None:
        """Begin; the threads and queues are of the event loop that is running."""
        self._ending.clear()
        self._batchers = {
            "embed_images": self._batcher("embed_images", self._embed_images, self._features),
            "embed_texts": self._batcher("embed_texts", self._embed_texts),
            "caption": self._batcher("caption", self._caption, self._picture_first),
            "match": self._batcher("match", self._match, self._picture_first),
            "prompt": self._batcher("prompt", self._prompt, self._picture_first),
        }

    async def embed(self, images: Sequence[bytes], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The unit vectors of pictures and of texts: (pictures, dim) and (texts, dim)."""
        with self.rows.take(len(images) + len(texts)):
            pictures = await self._batchers["embed_images"].submit(images)
            sentences = await self._batchers["embed_texts"].submit(texts)
        empty = np.empty((0, 0), np.float32)
        return np.stack(pictures) if pictures else empty, np.stack(sentences) if sentences else empty

    async def caption(self, images: Sequence[bytes], settings: dict[str, Any]) -> list[Captioned]:
        return await self._each("caption", images, settings, settings.get("candidates", ()))

    async def match(self, images: Sequence[bytes], texts: Sequence[str], prior: float | None) -> list[list[float]]:
        """The probability of each picture with each text."""
        return await self._each("match", images, {"texts": tuple(texts), "prior": prior}, texts)

    async def prompt(self, images: Sequence[bytes], settings: dict[str, Any]) -> list[list[GeneratedPrompt]]:
        return await self._each("prompt", images, settings)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the text tower sees of these texts."""
        return await self.aside("ask", self._tokens, texts) if texts else 0

    async def check(self, image: bytes) -> None:
        """Refuse a picture that cannot be decoded, or is larger than the settings allow, before it goes further."""
        await self.aside("decode", self._decoded, image, 1)

    async def add(self, path: str, prune: bool) -> Added:
        """Bring the index up to date with a folder; ends early, with what it has, when the server or its client does.

        Raises:
            Refused: 503, the server ends.
        """
        gone = threading.Event()
        progress = partial(self._to_the_end, gone)
        try:
            return await self.aside("write", partial(self.service.add, path, prune=prune, wait=0, progress=progress))
        except asyncio.CancelledError:
            gone.set()
            raise

    async def aside(self, pool: Pool, work: Callable[..., Any], *arguments: Any) -> Any:
        """In a thread, so that the event loop goes on answering.

        Questions, small pictures and what may take hours have threads of their own, so that none waits for the others.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool(pool), work, *arguments)

    def stop(self) -> None:
        """Have what may take hours end early; the rest is still answered. May be called from any thread."""
        self._ending.set()

    async def close(self) -> None:
        """End; `open` may follow."""
        self.stop()
        for batcher in self._batchers.values():
            await batcher.close()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()

    def _pool(self, name: Pool) -> ThreadPoolExecutor:
        if name not in self._pools:
            cores = os.cpu_count() or 1
            threads: dict[Pool, int] = {"decode": cores, "ask": cores + 4, "show": cores, "write": self.settings.queue}
            self._pools[name] = ThreadPoolExecutor(threads[name], thread_name_prefix=name)
        return self._pools[name]

    def _to_the_end(self, gone: threading.Event, items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        """A `Progress` that gives up when the server ends, or `gone` is set, instead of at the last picture."""
        for item in items:
            if self._ending.is_set() or gone.is_set():
                message = "the server is ending; what was added stays: add the folder again to go on"
                raise RequestRefused(503, "ending", message, {"Retry-After": "5"})
            yield item

    async def _each(
        self, name: str, images: Sequence[bytes], settings: dict[str, Any], texts: Sequence[str] = ()
    ) -> list[Any]:
        """Every picture with the same settings; `texts` are those that the model reads beside them."""
        setting: Setting = tuple(sorted(settings.items()))
        with self.rows.take(len(images) + len(texts)):
            return await self._batchers[name].submit([(image, setting) for image in images])

    def _batcher(self, name: str, work: Any, prepare: Callable[[Any], Any] = lambda item: item) -> Batcher:
        def worked(rows: int, waits: list[float]) -> None:
            self.figures.worked(name, rows, waits)

        limits: dict[str, Any] = {"most": self.settings.batch, "wait": self.settings.wait, "ahead": os.cpu_count() or 1}
        return Batcher(work, prepare=prepare, pool=self._pool("decode"), worked=worked, **limits)

    # in threads: what is made of one input

    def _decoded(self, image: bytes, min_side: int | None) -> Image.Image:
        return decode(image, max_pixels=self.settings.max_pixels, min_side=min_side)

    def _features(self, image: bytes) -> dict[str, Any]:
        """A picture as the model takes it: small, and made beside the model instead of in its time."""
        encoder = self.service.encoder
        return encoder.preprocess_images([self._decoded(image, encoder.image_size)])

    def _picture_first(self, item: tuple[bytes, Setting]) -> tuple[Image.Image, Setting]:
        picture = self._decoded(item[0], _CLOSE)
        return (picture if max(picture.size) <= _KEPT else thumbnail(picture, _KEPT)), item[1]

    # in threads: what is made of a batch

    def _embed_images(self, features: list[dict[str, Any]]) -> list[np.ndarray]:
        import torch

        joined = {
            key: torch.cat([each[key] for each in features]) if isinstance(value, torch.Tensor) else value
            for key, value in features[0].items()
        }
        with self.service.loaded.using("encoder") as encoder, torch.inference_mode():
            return list(encoder.embed(joined).cpu().numpy())

    def _tokens(self, texts: Sequence[str]) -> int:
        with self.service.loaded.using("encoder") as encoder:
            features = encoder.preprocess_texts(texts)
        mask = features.get("attention_mask")
        return int((mask if mask is not None else features["input_ids"] != 0).sum())

    def _embed_texts(self, texts: list[str]) -> list[np.ndarray]:
        return list(self.service.embed(texts=texts).text_vectors)

    def _caption(self, items: list[tuple[Image.Image, Setting]]) -> list[Captioned]:
        return _by_setting(items, lambda pictures, settings: self.service.caption(pictures, **settings))

    def _prompt(self, items: list[tuple[Image.Image, Setting]]) -> list[list[GeneratedPrompt]]:
        return _by_setting(items, lambda pictures, settings: self.service.prompt(pictures, **settings))

    def _match(self, items: list[tuple[Image.Image, Setting]]) -> list[list[float]]:
        return _by_setting(items, self._match_alike)

    def _match_alike(self, pictures: list[Image.Image], settings: dict[str, Any]) -> list[list[float]]:
        texts, prior = settings["texts"], settings["prior"]
        found = self.service.match_pairs([each for each in pictures for _ in texts], texts * len(pictures), prior=prior)
        return [found[at : at + len(texts)] for at in range(0, len(found), len(texts))]


def _by_setting(
    items: list[tuple[Image.Image, Setting]], work: Callable[[list[Image.Image], dict[str, Any]], Sequence[Any]]
) -> list[Any]:
    """Each picture's result, where those of one setting are worked on together."""
    places: dict[Setting, list[int]] = {}
    for at, (_, setting) in enumerate(items):
        places.setdefault(setting, []).append(at)
    results: list[Any] = [None] * len(items)
    for setting, rows in places.items():
        found = work([items[at][0] for at in rows], dict(setting))
        for at, result in zip(rows, found, strict=True):
            results[at] = result
    return results
