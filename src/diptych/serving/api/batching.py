"""Dynamic batching: concurrent requests share forward passes of the model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Input = TypeVar("Input")
Item = TypeVar("Item")
Result = TypeVar("Result")
OnBatch = Callable[[int, list[float]], None]
"""Called with the number of items of a batch and the seconds that each of its jobs waited."""


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    items: list[Item]
    answer: asyncio.Future[list[Result]]
    queued: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Input, Item, Result]):
    """One operation of a model for concurrent requests.

    `prepare` turns each input into an item, in threads of `pool`; `work` turns a batch of items into results, in a
    thread of its own. While the model runs a batch, the next one gathers, so a single request waits for nothing and
    batches grow with the load. Only while other inputs are being prepared does a batch wait for them, `max_wait`
    seconds at most.

    A request with more than `max_items` inputs runs in parts, and at most `max_preparing` of its inputs are prepared at
    once, so that other requests run in between. A cancelled request is dropped: nothing follows the step that a thread
    is running. The queue is not bounded here: see `CapacityLimiter`.

    Args:
        work: Runs the model on a batch; one result for each item.
        prepare: Makes an item from an input.
        pool: Threads for `prepare`.
        max_items: Items per batch, at least 1.
        max_wait: Seconds that a batch waits for inputs that are being prepared.
        max_preparing: Inputs of one request that are prepared at once, at least 1.
        on_batch: Called before each batch with its number of items and the seconds that each of its jobs waited.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        *,
        prepare: Callable[[Input], Item],
        pool: Executor,
        max_items: int = 32,
        max_wait: float = 0.01,
        max_preparing: int = 4,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.work, self.prepare, self.pool = work, prepare, pool
        self.max_items, self.max_wait, self.max_preparing = max_items, max_wait, max_preparing
        self.on_batch = on_batch
        self._jobs: asyncio.Queue[_Job[Item, Result]] = asyncio.Queue()
        self._postponed: _Job[Item, Result] | None = None  # taken from the queue, but too large for the current batch
        self._preparing = 0
        self._worker: asyncio.Task[None] | None = None
        # A single thread: each thread that computes keeps its own compute threads and freed memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def submit(self, inputs: Sequence[Input]) -> list[Result]:
        """The result of each input, in their order; raises what `prepare` or `work` raises for one of them."""
        loop = asyncio.get_running_loop()
        if not inputs:
            return []
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        results: list[Result] = []
        for start in range(0, len(inputs), self.max_items):
            items = await self._prepare_all(inputs[start : start + self.max_items])
            job: _Job[Item, Result] = _Job(items, loop.create_future())
            self._jobs.put_nowait(job)
            results += await job.answer
        return results

    async def _prepare_all(self, inputs: Sequence[Input]) -> list[Item]:
        """The item of each input, `max_preparing` at once."""
        loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(self.max_preparing)

        async def prepare(item: Input) -> Item:
            async with slots:
                return await loop.run_in_executor(self.pool, self.prepare, item)

        self._preparing += 1
        try:
            return await _gather_or_cancel([asyncio.create_task(prepare(item)) for item in inputs])
        finally:
            self._preparing -= 1

    async def close(self) -> None:
        """Stop the worker; queued requests get no answer."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            batch = [job for job in await self._next_batch() if not job.answer.done()]  # drops cancelled jobs
            if not batch:
                continue
            now = time.perf_counter()
            if self.on_batch is not None:
                self.on_batch(sum(len(job.items) for job in batch), [now - job.queued for job in batch])
            await self._answer(batch)

    async def _next_batch(self) -> list[_Job[Item, Result]]:
        first, self._postponed = self._postponed or await self._jobs.get(), None
        batch, size = [first], len(first.items)
        deadline = asyncio.get_running_loop().time() + self.max_wait
        while size < self.max_items and (job := await self._next_job(deadline)):
            if size + len(job.items) > self.max_items:
                self._postponed = job
                break
            batch.append(job)
            size += len(job.items)
        return batch

    async def _next_job(self, deadline: float) -> _Job[Item, Result] | None:
        """The next queued job, or one that is queued before the deadline while inputs are being prepared."""
        if self._jobs.empty() and self._preparing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self._jobs.get()
        return None if self._jobs.empty() else self._jobs.get_nowait()

    async def _answer(self, batch: list[_Job[Item, Result]]) -> None:
        """Run a batch. If it fails, run each job alone, so that one request's error does not fail the others."""
        try:
            items = [item for job in batch for item in job.items]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._checked_results, items)
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

    def _checked_results(self, items: list[Item]) -> list[Result]:
        results = list(self.work(items))
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results


async def _gather_or_cancel(tasks: Sequence[asyncio.Task[Item]]) -> list[Item]:
    """The results of all tasks; if one fails or the caller is cancelled, the others are cancelled."""
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
