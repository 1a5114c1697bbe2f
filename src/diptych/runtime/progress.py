"""Progress reports: a function that wraps an iterable. The library is silent unless it is passed one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps an iterable of `total` items (None: unknown) and shows under `label` how many were consumed."""

    def __call__(self, items: Iterable[Item], total: int | None, label: str) -> Iterable[Item]:
        """The same items."""
        ...


def silent(items: Iterable[Item], total: int | None, label: str) -> Iterable[Item]:  # noqa: ARG001 - as `Progress`
    """A `Progress` that shows nothing."""
    return items


def progress_bar(items: Iterable[Item], total: int | None, label: str) -> Iterable[Item]:
    """A `Progress` that shows a bar: a widget in a notebook, a line on standard error elsewhere.

    >>> diptych.train(recipe, progress=diptych.progress_bar)  # doctest: +SKIP
    """
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc=label)
