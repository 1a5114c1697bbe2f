"""Work in threads ahead of its consumer, in order, with bounded memory: decoding beside the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int | None = None, ahead: int = 4
) -> Iterator[Result]:
    """Apply `work` in threads, a few items ahead of the consumer, and yield the results in the items' order.

    At most `workers + ahead` results wait at once, so memory is bounded. An exception in `work` is raised here.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= workers + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
