"""Dynamic batching: requests that arrive together go through the model together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

Worked = Callable[[int, list[float]], None]


@dataclass(slots=True)
class _Job:
    items: list[Any]
    answer: asyncio.Future[list[Any]]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """One operation of a model, for many requests: `prepare` makes items of inputs in threads, `work` takes a batch.

    While the model works on a batch, what arrives gathers for the next one, so load makes batches by itself and a lone
    request waits for nothing. Only while other requests are still being prepared does a batch wait for them, for `wait`
    seconds at most. A batch has at most `most` items. A request with more is worked on in parts, and at most `ahead` of
    its inputs are prepared at once, so that others come in between. A request that is cancelled is dropped: what a
    thread works on ends, and nothing follows. How much may gather is not for the batcher to say: see `Room`.
    """

    def __init__(
        self,
        work: Callable[[list[Any]], Sequence[Any]],
        *,
        prepare: Callable[[Any], Any] = lambda item: item,
        pool: Executor,
        most: int = 32,
        wait: float = 0.01,
        ahead: int = 4,
        worked: Worked = lambda rows, waits: None,
    ) -> None:
        self.work, self.prepare, self.pool = work, prepare, pool
        self.most, self.wait, self.ahead, self.worked = most, wait, ahead, worked
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._left: _Job | None = None  # taken from the queue, but too large for the batch at hand
        self._preparing = 0
        self._worker: asyncio.Task[None] | None = None
        # Always the same thread: each that computes has computing threads and freed memory of its own, and keeps both.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def submit(self, inputs: Sequence[Any]) -> list[Any]:
        """The result of each input, in their order; raises what `prepare` or `work` raised for one of them."""
        loop = asyncio.get_running_loop()
        if not inputs:
            return []
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        results: list[Any] = []
        for at in range(0, len(inputs), self.most):
            job = _Job(await self._prepared(inputs[at : at + self.most]), loop.create_future())
            self._jobs.put_nowait(job)
            results += await job.answer
        return results

    async def _prepared(self, inputs: Sequence[Any]) -> list[Any]:
        """What `prepare` makes of each input, `ahead` of them at once."""
        loop, free = asyncio.get_running_loop(), asyncio.Semaphore(self.ahead)

        async def prepared(each: Any) -> Any:
            async with free:
                return await loop.run_in_executor(self.pool, self.prepare, each)

        self._preparing += 1
        try:
            return await _all([asyncio.create_task(prepared(each)) for each in inputs])
        finally:
            self._preparing -= 1

    async def close(self) -> None:
        """End the worker; what waits is not answered any more."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            batch = [job for job in await self._gather() if not job.answer.done()]  # the rest is waited for no more
            if not batch:
                continue
            began = time.perf_counter()
            self.worked(sum(len(job.items) for job in batch), [began - job.since for job in batch])
            await self._answer(batch)

    async def _gather(self) -> list[_Job]:
        first, self._left = self._left or await self._jobs.get(), None
        batch, rows = [first], len(first.items)
        deadline = asyncio.get_running_loop().time() + self.wait
        while rows < self.most and (job := await self._next(deadline)):
            if rows + len(job.items) > self.most:
                self._left = job
                break
            batch.append(job)
            rows += len(job.items)
        return batch

    async def _next(self, deadline: float) -> _Job | None:
        """The next job that is there, or comes before the deadline while some are on their way."""
        if self._jobs.empty() and self._preparing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self._jobs.get()
        return None if self._jobs.empty() else self._jobs.get_nowait()

    async def _answer(self, batch: list[_Job]) -> None:
        """Work on a batch; where that fails, on each request alone, so that one's fault is not the others'."""
        try:
            items = [item for job in batch for item in job.items]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._checked, items)
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    if not job.answer.done():
                        await self._answer([job])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for job in batch:
            own, results = results[: len(job.items)], results[len(job.items) :]
            if not job.answer.done():
                job.answer.set_result(own)

    def _checked(self, items: list[Any]) -> list[Any]:
        results = list(self.work(items))
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results


async def _all(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    """The results of all; when one fails, or nobody waits for them, those that have not begun are called off."""
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
