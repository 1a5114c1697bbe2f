"""The operations of a service for concurrent requests: those of models are batched, the others run in thread pools."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.images.decode import decode, thumbnail
from diptych.search.index import AddReport
from diptych.serving.api.batching import Batcher
from diptych.serving.api.error_responses import RequestRefused
from diptych.serving.api.limits import CapacityLimiter
from diptych.serving.api.prometheus import ServerMetrics
from diptych.serving.api.settings import Settings
from diptych.serving.parameters import CaptionParameters, MatchParameters, PromptParameters
from diptych.serving.results import CaptionedImage, GeneratedPrompt
from diptych.serving.service import Service

_MIN_SIDE = 512  # pixels of the shorter side at which a JPEG is decoded for captioners, matchers and prompters
_MAX_SIDE = 1_024  # pixels of the longer side of a decoded image that waits for its batch

Pool = Literal["decode", "ask", "show", "write"]
Input = TypeVar("Input")
Item = TypeVar("Item")
Result = TypeVar("Result")
Setting = TypeVar("Setting", bound=Hashable)
Parameters = ParamSpec("Parameters")
Features = dict[str, Any]
"""The input of an image tower: tensors by name."""
Prepared = tuple[Item, Setting]
"""An image of a request with the request's settings."""


class Operations:
    """A service for concurrent requests, used from one event loop. `rows` limits the images and texts in flight."""

    def __init__(self, service: Service, settings: Settings, metrics: ServerMetrics) -> None:
        self.service, self.settings, self.metrics = service, settings, metrics
        self.rows = CapacityLimiter(max(8 * settings.batch, 4 * settings.max_rows), "images and texts")
        self._pools: dict[Pool, ThreadPoolExecutor] = {}
        self._stopping = threading.Event()

    def open(self) -> None:
        """Create the batchers; call it inside the event loop."""
        self._stopping.clear()
        self._images = self._batcher("embed_images", self._embed_images, self._features)
        self._texts = self._batcher("embed_texts", self._embed_texts, str)
        self._captions = self._batcher_of("caption", self._caption)
        self._matches = self._batcher_of("match", self._match)
        self._prompts = self._batcher_of("prompt", self._prompt)

    async def embed(
        self, images: Sequence[bytes], texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Unit embeddings of images and of texts: (images, dim) and (texts, dim).

        Raises:
            RequestRefused: 429, too many images and texts are in flight.
            ImageError: an image cannot be decoded.
        """
        with self.rows.reserve(len(images) + len(texts)):
            of_images = await self._images.submit(images)
            of_texts = await self._texts.submit(texts)
        empty = np.empty((0, 0), np.float32)
        return np.stack(of_images) if of_images else empty, np.stack(of_texts) if of_texts else empty

    async def caption(self, images: Sequence[bytes], settings: CaptionParameters) -> list[CaptionedImage]:
        """A caption for each image; raises as `embed`."""
        return await self._submit(self._captions, images, settings, texts=len(settings.candidates))

    async def match(self, images: Sequence[bytes], settings: MatchParameters) -> list[list[float]]:
        """P(match) of each image with each text; raises as `embed`."""
        return await self._submit(self._matches, images, settings, texts=len(settings.texts))

    async def unknown_texts(self, texts: Sequence[str], kind: Literal["encoder", "matcher"] = "encoder") -> list[str]:
        """The distinct texts of which a model knows no word, in order."""
        return await self.run_in_thread("ask", self.service.unknown_texts, texts, kind) if texts else []

    async def prompt(self, images: Sequence[bytes], settings: PromptParameters) -> list[list[GeneratedPrompt]]:
        """Prompts for each image; raises as `embed`."""
        return await self._submit(self._prompts, images, settings)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """The number of tokens that the text tower reads of these texts, padding excluded."""
        return await self.run_in_thread("ask", self._count_tokens, texts) if texts else 0

    async def check_image(self, image: bytes) -> None:
        """Raise `ImageError` for an image that cannot be decoded or has more pixels than the settings allow."""
        await self.run_in_thread("decode", self._decoded, image, 1)

    async def add(self, path: str, prune: bool) -> AddReport:
        """Bring the index up to date with a folder; stops early when the server or the request ends.

        Raises:
            RequestRefused: 503, the server is shutting down.
        """
        cancelled = threading.Event()
        progress = partial(self._until_stopped, cancelled)
        try:
            return await self.run_in_thread(
                "write", partial(self.service.add, path, prune=prune, wait=0, progress=progress)
            )
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def run_in_thread(
        self,
        pool: Pool,
        function: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **keywords: Parameters.kwargs,
    ) -> Result:
        """Run a function in a thread pool, so that the event loop stays free.

        Queries, thumbnails and writes that may take hours have a pool each, so that none waits for the others.
        """
        call = partial(function, *arguments, **keywords)
        return await asyncio.get_running_loop().run_in_executor(self._pool(pool), call)

    def stop(self) -> None:
        """End writes early; other requests are still answered. Thread-safe."""
        self._stopping.set()

    async def close(self) -> None:
        """Stop the batchers and thread pools; `open` may follow."""
        self.stop()
        for batcher in (self._images, self._texts, self._captions, self._matches, self._prompts):
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

    def _until_stopped(
        self,
        cancelled: threading.Event,
        items: Iterable[Item],
        total: int | None,  # noqa: ARG002 - it is a `Progress`
        label: str,  # noqa: ARG002
    ) -> Iterator[Item]:
        """A `Progress` that raises when the server stops or `cancelled` is set."""
        for item in items:
            if self._stopping.is_set() or cancelled.is_set():
                message = "the server is shutting down; images added so far stay: add the folder again to go on"
                raise RequestRefused(503, "ending", message, {"Retry-After": "5"})
            yield item

    async def _submit(
        self,
        batcher: Batcher[Prepared[bytes, Setting], Prepared[Image.Image, Setting], Result],
        images: Sequence[bytes],
        settings: Setting,
        texts: int = 0,
    ) -> list[Result]:
        """The result of each image; `texts` is the number of texts that the model reads beside them."""
        with self.rows.reserve(len(images) + texts):
            return await batcher.submit([(image, settings) for image in images])

    def _batcher(
        self, operation: str, work: Callable[[list[Item]], Sequence[Result]], prepare: Callable[[Input], Item]
    ) -> Batcher[Input, Item, Result]:
        return Batcher(
            work,
            prepare=prepare,
            pool=self._pool("decode"),
            max_items=self.settings.batch,
            max_wait=self.settings.wait,
            max_preparing=os.cpu_count() or 1,
            on_batch=partial(self.metrics.record_batch, operation),
        )

    def _batcher_of(
        self, operation: str, run: Callable[[list[Image.Image], Setting], Sequence[Result]]
    ) -> Batcher[Prepared[bytes, Setting], Prepared[Image.Image, Setting], Result]:
        """A batcher of images with settings, which runs those with equal settings together."""
        return self._batcher(operation, partial(_by_setting, run), self._decoded_item)

    # preparing one input, in the decode pool

    def _decoded(self, image: bytes, min_side: int | None) -> Image.Image:
        return decode(image, max_pixels=self.settings.max_pixels, min_side=min_side)

    def _features(self, image: bytes) -> Features:
        """The model's input for an image: smaller than the image, and computed while the model runs."""
        encoder = self.service.encoder
        return encoder.preprocess_images([self._decoded(image, encoder.image_size)])

    def _decoded_item(self, item: Prepared[bytes, Setting]) -> Prepared[Image.Image, Setting]:
        image = self._decoded(item[0], _MIN_SIDE)
        return (image if max(image.size) <= _MAX_SIDE else thumbnail(image, _MAX_SIDE)), item[1]

    # running a batch, in the batcher's thread

    def _embed_images(self, features: list[Features]) -> list[NDArray[np.float32]]:
        import torch

        batch = {
            key: torch.cat([image[key] for image in features]) if isinstance(value, torch.Tensor) else value
            for key, value in features[0].items()
        }
        with self.service.loaded.using("encoder") as encoder, torch.inference_mode():
            return list(encoder.embed(batch).cpu().numpy())

    def _count_tokens(self, texts: Sequence[str]) -> int:
        with self.service.loaded.using("encoder") as encoder:
            features = encoder.preprocess_texts(texts)
        mask = features.get("attention_mask")
        return int((mask if mask is not None else features["input_ids"] != 0).sum())

    def _caption(self, images: list[Image.Image], parameters: CaptionParameters) -> list[CaptionedImage]:
        return self.service.run_caption(images, parameters)

    def _match(self, images: list[Image.Image], parameters: MatchParameters) -> list[list[float]]:
        return self.service.run_match(images, parameters)

    def _prompt(self, images: list[Image.Image], parameters: PromptParameters) -> list[list[GeneratedPrompt]]:
        return self.service.run_prompt(images, parameters)

    def _embed_texts(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return list(self.service.embed(texts=texts).text_embeddings)


def _by_setting(
    run: Callable[[list[Image.Image], Setting], Sequence[Result]], items: list[Prepared[Image.Image, Setting]]
) -> list[Result]:
    """The result of each image; images with equal settings run together."""
    rows_of: dict[Setting, list[int]] = {}
    for row, (_, setting) in enumerate(items):
        rows_of.setdefault(setting, []).append(row)
    results: dict[int, Result] = {}
    for setting, rows in rows_of.items():
        results.update(zip(rows, run([items[row][0] for row in rows], setting), strict=True))
    return [results[row] for row in range(len(items))]
