"""Background work: apply a function in threads ahead of the consumer, in order and with bounded memory."""

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
    """Apply `work` to items in threads, ahead of the consumer, and yield the results in the order of the items.

    At most `workers + ahead` results wait at once; by default there are as many workers as CPUs, at most 8. Exceptions
    of `work` are raised when its result is due.
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
